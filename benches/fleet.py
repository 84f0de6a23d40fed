"""msal with its file cache as a subject of `fleet.rs`: started by it, with the token URL and a directory."""
import json
import pathlib
import sys
import threading
import time

import msal
import msal_extensions
import requests

token_url, directory = sys.argv[1:]


class Http:
    """msal insists on https and on discovery, so its transport is replaced by one that posts to the endpoint."""

    def __init__(self):
        self.session = requests.Session()

    def get(self, url, **_):
        found = {"token_endpoint": "https://localhost/token", "authorization_endpoint": "https://localhost/authorize",
                 "issuer": "https://localhost/tenant"}
        return type("Found", (), {"status_code": 200, "text": json.dumps(found), "headers": {}})

    def post(self, url, data=None, headers=None, **_):
        return self.session.post(token_url, data=data, headers=headers)


persistence = msal_extensions.FilePersistence(str(pathlib.Path(directory) / "msal.json"))
app = msal.ConfidentialClientApplication(
    "id", client_credential="secret", authority="https://localhost/tenant", instance_discovery=False,
    validate_authority=False, token_cache=msal_extensions.PersistedTokenCache(persistence), http_client=Http())
times, errors, lock = [], 0, threading.Lock()


def call():
    global errors
    began = time.perf_counter()
    is_token = "access_token" in app.acquire_token_for_client(["read"])
    took = time.perf_counter() - began
    with lock:
        times.append(took)
        errors += not is_token
    return took


def load(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        call()
        time.sleep(0.02)


print("ready", flush=True)
for order in sys.stdin:
    what, seconds = order.split()
    if what == "get":
        print(call() * 1e6, flush=True)
    else:
        times.clear()
        threads = [threading.Thread(target=load, args=[float(seconds)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(errors, *(took * 1e6 for took in times), flush=True)
