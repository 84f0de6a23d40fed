//! What an address says: where the servers are, and as whom to come.

use std::sync::Arc;

use secrecy::SecretString;
use url::Url;

/// Host and port.
pub(super) type Address = (Arc<str>, u16);

#[derive(Debug)]
pub(super) enum Servers {
    One(Address),
    Sentinels(Vec<Address>, String),
    Cluster(Vec<Address>),
}

#[derive(Default)]
pub(super) struct User {
    pub(super) name: Option<String>,
    pub(super) password: Option<SecretString>,
    pub(super) database: i64,
}

/// Whether with TLS, and what else an address says. Whatever it looks like, no error has more of it than a
/// scheme: what seems to be a host may be half a password.
pub(super) fn parsed(address: &str) -> Result<(bool, Servers, User), String> {
    let (scheme, rest) = address.split_once("://").ok_or_else(|| {
        "has no scheme, but must begin with \"redis://\" or \"rediss://\", say".to_owned()
    })?;
    let (user, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
    let unreadable = || "has a user or password that cannot be read: percent-encode it".to_owned();
    if user.contains(['/', '?', '#']) {
        return Err(unreadable());
    }
    if rest.contains(['?', '#']) {
        return Err("has a query or a fragment, and takes none: leave it out".into());
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (is_tls, kind) = match scheme.strip_prefix("rediss") {
        Some(kind) => (true, kind),
        None => (false, scheme.strip_prefix("redis").unwrap_or("?")),
    };
    let usual = if kind == "+sentinel" { 26_379 } else { 6_379 };
    let addresses = hosts.split(',').map(|host| one_address(host, usual));
    let mut addresses = addresses.collect::<Option<Vec<_>>>().ok_or(
        "names a server that cannot be read: name each as host or host:port, after the last @",
    )?;
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let decode =
        |text: &str| (!text.is_empty()).then(|| decoded(text).ok_or_else(unreadable)).transpose();
    let mut user =
        User { name: decode(name)?, password: decode(password)?.map(Into::into), database: 0 };
    let servers = match kind {
        "" if addresses.len() == 1 => {
            if !path.is_empty() {
                let number = path.parse();
                user.database =
                    number.map_err(|_| "names a database that is no number: it is 0, say")?;
            }
            Servers::One(addresses.remove(0))
        }
        "" => return Err("names several servers: is it redis+sentinel: or redis-cluster:?".into()),
        "+sentinel" if path.is_empty() => {
            return Err("names no master: put its name at the end, after a slash".into());
        }
        "+sentinel" => Servers::Sentinels(addresses, path.into()),
        "-cluster" => Servers::Cluster(addresses),
        _ => {
            return Err(format!(
                "has the scheme {}, but must be redis, rediss, redis+sentinel, rediss+sentinel, \
                 redis-cluster or rediss-cluster",
                if scheme.bytes().all(|byte| byte.is_ascii_lowercase()) { scheme } else { "?" }
            ));
        }
    };
    Ok((is_tls, servers, user))
}

fn one_address(text: &str, usual_port: u16) -> Option<Address> {
    let url = Url::parse(&format!("redis://{text}")).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.into(), url.port().unwrap_or(usual_port)))
}

/// Percent-decoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::RedisStore;
    use super::*;

    #[test]
    fn an_address_says_where_the_servers_are_and_as_whom_to_come() {
        for (address, expected) in [
            ("redis://cache", "false One((\"cache\", 6379)) None None 0"),
            ("rediss://a:b@cache:1/3", "true One((\"cache\", 1)) Some(\"a\") Some(\"b\") 3"),
            ("redis://:p%40s%3as@[::1]", "false One((\"::1\", 6379)) None Some(\"p@s:s\") 0"),
            (
                "redis+sentinel://u:p@one,two:7/main",
                "false Sentinels([(\"one\", 26379), (\"two\", 7)], \"main\") Some(\"u\") Some(\"p\") 0",
            ),
            (
                "rediss-cluster://one,two",
                "true Cluster([(\"one\", 6379), (\"two\", 6379)]) None None 0",
            ),
        ] {
            let (is_tls, servers, user) = parsed(address).unwrap();
            let password = user.password.as_ref().map(ExposeSecret::expose_secret);
            let shown =
                format!("{is_tls} {servers:?} {:?} {password:?} {}", user.name, user.database);
            assert_eq!(shown, expected, "{address}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_its_password() {
        for (address, says) in [
            ("cache:6379", "has no scheme"),
            ("http://cache", "has the scheme http,"),
            ("redis://u:s3cret@one,two", "several servers"),
            ("redis+sentinel://u:s3cret@one", "names no master"),
            ("redis://u:s3cret@one/main", "a database that is no number"),
            ("redis://u:s3cret%zz@one", "percent-encode"),
            ("redis://u:s3cret@", "names a server that cannot be read"),
            ("redis://u:p/s3cret@one", "percent-encode"),
            ("redis://u:9/s3cret@one/0", "percent-encode"),
            ("redis://u:p?s3cret@one", "percent-encode"),
            ("redis://u:p#s3cret@one", "percent-encode"),
            ("u:s3cret@redis://one", "has the scheme ?,"),
            ("redis+s3cret://one", "has the scheme ?,"),
            ("redis://one/s3cret", "a database that is no number"),
            ("redis://one/0?password=s3cret", "has a query"),
            ("redis://one?password=s3cret", "has a query"),
            ("redis+sentinel://one/main?password=s3cret", "has a query"),
            ("redis://one#s3cret", "has a query or a fragment"),
            ("redis://u:s3cret", "names a server that cannot be read"),
            ("redis://one,u:s3cret", "names a server that cannot be read"),
            ("redis://u s3cret@:1", "names a server that cannot be read"),
            ("u:s3cret@one", "has no scheme"),
        ] {
            let error = RedisStore::connect(address).build().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
        let store = RedisStore::connect("redis://u:s3cret@one").build().unwrap();
        assert_eq!(format!("{store:?}"), "RedisStore(One((\"one\", 6379)))");
    }
}
