//! The five scripts, which the server keeps under their digests.

use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};

use crate::http::crypto::library::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use crate::store::contract::{Slot, hex};
use crate::store::{BURY, LEAVE, PUT, RENEW, TAKE};

/// A script, and the name that the server has for it.
pub(super) struct Body {
    text: &'static str,
    sha: LazyLock<String>,
}

macro_rules! bodies {
    ($($name:ident: $text:ident;)*) => {
        $(pub(super) static $name: Body = Body { text: $text, sha: LazyLock::new(|| sha_of($text)) };)*
    };
}

bodies! {
    TAKING: TAKE;
    PUTTING: PUT;
    RENEWING: RENEW;
    LEAVING: LEAVE;
    BURYING: BURY;
}

fn sha_of(text: &str) -> String {
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

/// One run of a script.
pub(super) struct Script<'a> {
    body: &'static Body,
    keys: Vec<String>,
    args: Vec<&'a [u8]>,
}

impl<'a> Script<'a> {
    pub(super) fn new(body: &'static Body, slot: &Slot, keys: &str, args: Vec<&'a [u8]>) -> Self {
        let slot = format!("{{{}:{}}}", slot.namespace(), slot.name());
        let key = |which| format!("{slot}{which}");
        Self { body, keys: keys.chars().map(key).collect(), args }
    }

    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Value, RedisError> {
        let mut command = cmd("EVALSHA");
        command.arg(&*self.body.sha).arg(self.keys.len()).arg(&self.keys);
        for arg in &self.args {
            command.arg(*arg);
        }
        let result = connection.send_packed_command(&command).await.and_then(Value::extract_error);
        match result {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                let load = cmd("SCRIPT").arg("LOAD").arg(self.body.text).to_owned();
                connection.send_packed_command(&load).await?.extract_error()?;
                connection.send_packed_command(&command).await?.extract_error()
            }
            result => result,
        }
    }
}
