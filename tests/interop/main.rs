//! Sessions and the command against a real authorization server (oidc-provider, certified), which
//! `tests/interop/run` installs before it runs this.

mod command;
mod life;
mod wrong;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ccg_session::{ClientAuth, Credential, HttpTokenManager, HttpTokenManagerBuilder, Provider};
use serde_json::Value;

/// Of the clients with `Basic` and `Post`. Each of its odd characters has a meaning in a form or in Basic.
const SECRET: &str = "a secret: with + % & = and spaces";
/// Of the client with `SecretJwt`.
const LONG_SECRET: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// A key of the tests, which the server knows as one client's for each of its algorithms.
fn key(file: &str) -> String {
    let keys = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    std::fs::read_to_string(keys.join(file)).unwrap()
}

/// The server, a process of its own. It ends with its owner, and with this process however that ends: its
/// stdin does then.
struct Server {
    process: Child,
    issuer: String,
}

impl Server {
    /// With these environment variables, which `oidc-provider.mjs` lists.
    fn start(settings: &[(&str, &str)]) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        assert!(
            folder.join("node_modules").exists(),
            "the server is not installed: run tests/interop/run"
        );
        let mut command = Command::new("node");
        for name in ["PORT", "TTL", "CLOCK", "DPOP", "TLS"] {
            command.env_remove(name);
        }
        let mut process = command
            .arg(folder.join("oidc-provider.mjs"))
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Node is installed");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).expect("it says where it listens");
        Self { process, issuer: said["issuer"].as_str().unwrap().to_owned() }
    }

    /// It, as this client. Nothing but its issuer is known.
    fn provider(&self, auth: ClientAuth) -> Provider {
        Provider::discover(&self.issuer).client_auth(auth).scopes(["read", "write"])
    }

    fn client(
        &self,
        id: &str,
        auth: ClientAuth,
        credential: impl Into<Credential>,
    ) -> HttpTokenManagerBuilder {
        HttpTokenManager::builder(self.provider(auth), id, credential)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only its own child, which may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
