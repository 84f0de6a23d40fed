"""A Python program, standard library only, that gets its tokens from the command.

It takes the addresses of an authority, and the client's id and secret, from the environment.
"""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request


class Tokens:
    """Keeps a token until shortly before it expires, as a program would."""

    def __init__(self, *arguments):
        self.arguments = arguments
        self.token = None
        self.good_until = 0.0
        self.asked = 0

    def get(self):
        if time.monotonic() >= self.good_until:
            self.asked += 1
            token = json.loads(ccg_session("token", *self.arguments, "--format", "json").stdout)
            self.token = token["access_token"]
            self.good_until = time.monotonic() + 0.9 * token["expires_in"]
        return self.token

    def refused(self):
        self.good_until = 0.0


def ccg_session(*arguments, **options):
    command = [os.environ["CCG_SESSION"], *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options)


def call_the_api(tokens):
    """With one more try, as a client should: the token may have been revoked meanwhile."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for attempt in range(2):
        headers = {"Authorization": "Bearer " + tokens.get()}
        request = urllib.request.Request(os.environ["RESOURCE_URL"], headers=headers)
        try:
            with opener.open(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code != 401 or attempt == 1:
                raise
            tokens.refused()


def main():
    issuer = ("--issuer", os.environ["ISSUER"], "--auth", "basic")
    tokens = Tokens(*issuer, "--scope", "item_upload")
    for _ in range(3):
        assert call_the_api(tokens)["scope"] == "item_upload"
    assert tokens.asked == 1, "one token serves all calls"

    ccg_session("revoke", *issuer, input=tokens.token)
    assert call_the_api(tokens)["scope"] == "item_upload"
    assert tokens.asked == 2, "the revoked one was replaced"

    try:
        ccg_session("token", *issuer, "--scope", "nonsense", "--format", "json")
    except subprocess.CalledProcessError as error:
        problem = json.loads(error.stderr)
        assert (error.returncode, problem["kind"]) == (3, "denied"), problem
        assert error.stdout == ""
    else:
        raise AssertionError("a scope that does not exist was granted")
    print("done")


main()
