//! Which proxy a request goes through, if any: decided for each by its address.

use std::fmt;
use std::net::IpAddr;

use secrecy::SecretString;
use url::{Host, Url};

use super::address::without_secrets;
use super::blanks::{check_word, trimmed};
use crate::error::ConfigError;

/// By what the environment says, as curl and reqwest read it, or by what was set.
#[derive(Clone, Default)]
pub(super) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    /// The entries of `NO_PROXY`.
    except: Vec<String>,
}

impl Proxies {
    /// This one for all.
    pub(super) fn only(text: &str) -> Result<Self, ConfigError> {
        let proxy = parse("proxy", text)?;
        Ok(Self { http: Some(proxy.clone()), https: Some(proxy), except: Vec::new() })
    }

    /// A variable that cannot be used is an error: without its proxy, a request would take a way that
    /// somebody has closed, or that nobody watches.
    pub(super) fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let read = |names: [&'static str; 2]| {
            let found = names.into_iter().find_map(|name| Some((name, variable(name)?)));
            let found = found.filter(|(_, text)| !trimmed(text).is_empty());
            found.map(|(name, text)| parse(name, &text)).transpose()
        };
        let all = read(["ALL_PROXY", "all_proxy"])?;
        // A web server hands its client's header `Proxy` to a program as HTTP_PROXY (CVE-2016-5385).
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let http = if is_cgi { None } else { read(["HTTP_PROXY", "http_proxy"])? };
        let https = read(["HTTPS_PROXY", "https_proxy"])?;
        let except = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
        let except = except.split(',').map(|entry| entry.trim().to_owned());
        let except = except.filter(|entry| !entry.is_empty()).collect();
        Ok(Self { http: http.or_else(|| all.clone()), https: https.or(all), except })
    }

    /// Nothing that is for this machine leaves it: there it may be in clear, and a proxy would see it.
    pub(super) fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        let host = url.host()?;
        let is_excepted =
            self.except.iter().any(|entry| covers(entry, &host, url.port_or_known_default()));
        (!is_local(&host) && !is_excepted).then_some(proxy)
    }
}

impl Proxies {
    /// What a proxy, or who is behind it, could repeat.
    pub(super) fn secrets(&self) -> impl Iterator<Item = SecretString> {
        let proxies = [&self.http, &self.https].into_iter().flatten();
        proxies.filter_map(|proxy| {
            let password = proxy.password()?.replace('+', "%2B");
            let pair = format!("p={password}");
            let (_, password) = url::form_urlencoded::parse(pair.as_bytes()).next()?;
            Some(SecretString::from(password.into_owned()))
        })
    }
}

/// A proxy's address may have a password in it.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |proxy: &Option<Url>| proxy.as_ref().map(name);
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("except", &self.except)
            .finish()
    }
}

/// As errors name it.
pub(super) fn name(proxy: &Url) -> String {
    let mut shown = proxy.clone();
    // No URL with a host refuses this.
    let _ = shown.set_username("").and(shown.set_password(None));
    without_secrets(shown.as_str()).trim_end_matches('/').to_owned()
}

fn parse(setting: &'static str, text: &str) -> Result<Url, ConfigError> {
    let text = trimmed(text);
    check_word(text).map_err(|problem| ConfigError::new(setting, problem))?;
    let shown = without_secrets(text);
    let refuse = |problem: &str| Err(ConfigError::new(setting, format!("is {shown:?}, {problem}")));
    let written_out = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = match Url::parse(&written_out) {
        Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => url,
        _ => {
            return refuse(
                "which is not a proxy's address: write it as \"http://proxy.example.com:3128\"",
            );
        }
    };
    match url.scheme() {
        "http" | "https" => Ok(url),
        "socks4" | "socks4a" | "socks5" | "socks5h" if cfg!(feature = "socks") => Ok(url),
        "socks4" | "socks4a" | "socks5" | "socks5h" => {
            refuse("a SOCKS proxy: turn on this crate's feature `socks`")
        }
        _ => refuse("but a proxy's address begins with http://, https:// or socks5://"),
    }
}

/// Wider than where clear text is allowed: a name that can only be this machine's is enough.
fn is_local(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback() || address.is_unspecified(),
        Host::Ipv6(address) => {
            let mapped = address.to_ipv4_mapped().is_some_and(|address| address.is_loopback());
            address.is_loopback() || address.is_unspecified() || mapped
        }
        // RFC 6761 §6.3.
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// Whether an entry of `NO_PROXY` means this host: everything, an address, a network of them, or a name
/// with all that is below it; with a port that port alone.
fn covers(entry: &str, host: &Host<&str>, port: Option<u16>) -> bool {
    let (entry, wanted) = match entry.rsplit_once(':') {
        // The colons of an address without brackets are its own.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (entry, None),
    };
    if wanted.is_some_and(|wanted| wanted.parse().ok() != port) {
        return false;
    }
    let address: IpAddr = match host {
        Host::Domain(name) => {
            let entry = entry.strip_prefix("*.").unwrap_or(entry).trim_start_matches('.');
            let below = name.len().checked_sub(entry.len()).filter(|_| !entry.is_empty());
            return entry == "*"
                || below.is_some_and(|at| {
                    let is_whole = at == 0 || name.as_bytes()[at - 1] == b'.';
                    is_whole && name.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(entry))
                });
        }
        Host::Ipv4(address) => (*address).into(),
        Host::Ipv6(address) => (*address).into(),
    };
    let (network, length) = match entry.split_once('/') {
        Some((network, length)) => (network, length.parse::<u32>().ok()),
        None => (entry, Some(128)),
    };
    let network = network.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    entry == "*"
        || match (network, address, length) {
            (Ok(IpAddr::V4(network)), IpAddr::V4(address), Some(length)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= length.min(32)
            }
            (Ok(IpAddr::V6(network)), IpAddr::V6(address), Some(length)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= length.min(128)
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Proxies, String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Proxies::from_env(find).map_err(|error| error.to_string())
    }

    fn of(proxies: &Proxies, url: &str) -> String {
        proxies.of(&Url::parse(url).unwrap()).map_or("-".into(), name)
    }

    #[test]
    fn the_password_of_a_proxy_is_among_what_could_be_repeated() {
        use secrecy::ExposeSecret;

        let of = |proxies: Proxies| -> Vec<String> {
            proxies.secrets().map(|secret| secret.expose_secret().to_owned()).collect()
        };
        let proxies = from(&[("HTTPS_PROXY", "http://user:p%40ss+word@one:1")]).unwrap();
        assert_eq!(of(proxies), ["p@ss+word"]);
        assert_eq!(of(from(&[("HTTPS_PROXY", "http://one:1")]).unwrap()), [""; 0]);
    }

    #[test]
    fn a_proxy_is_decided_for_each_request() {
        let proxies = from(&[
            ("HTTPS_PROXY", "http://one:1"),
            ("https_proxy", "http://other:1"),
            ("all_proxy", "all.example:3128"),
            ("NO_PROXY", "as.example, .dot.example,10.0.0.0/8,2001:db8::/32, 192.0.2.7"),
        ])
        .unwrap();
        for (url, expected) in [
            ("https://login.example/token", "http://one:1"),
            ("http://login.example/token", "http://all.example:3128"),
            ("https://as.example/token", "-"),
            ("https://deep.AS.example/token", "-"),
            ("https://not-as.example/token", "http://one:1"),
            ("https://x.dot.example/", "-"),
            ("https://10.1.2.3/", "-"),
            ("https://11.1.2.3/", "http://one:1"),
            ("https://192.0.2.7/", "-"),
            ("https://192.0.2.8/", "http://one:1"),
            ("https://[2001:db8::1]/", "-"),
            ("https://[2001:db9::1]/", "http://one:1"),
            // Never what is for this machine.
            ("http://127.0.0.1:8080/", "-"),
            ("https://127.9.9.9/", "-"),
            ("http://[::1]/", "-"),
            ("http://[::ffff:127.0.0.1]/", "-"),
            ("http://localhost:1/", "-"),
            ("http://LOCALHOST./", "-"),
            ("http://as.localhost/", "-"),
            ("http://localhost.example/", "http://all.example:3128"),
        ] {
            assert_eq!(of(&proxies, url), expected, "{url}");
        }
        let ported = from(&[
            ("ALL_PROXY", "http://p:1"),
            ("NO_PROXY", "a.example:8443,*.b.example, *.c.example:80,192.0.2.7:443,[2001:db8::1]:443,2001:db8::2"),
        ])
        .unwrap();
        for (url, expected) in [
            ("https://a.example:8443/", "-"),
            ("https://x.a.example:8443/", "-"),
            ("https://a.example/", "http://p:1"),
            ("https://x.b.example/", "-"),
            ("https://x.y.b.example:1/", "-"),
            ("https://xb.example/", "http://p:1"),
            ("http://x.c.example/", "-"),
            ("https://x.c.example/", "http://p:1"),
            ("https://192.0.2.7/", "-"),
            ("https://192.0.2.7:444/", "http://p:1"),
            ("https://[2001:db8::1]/", "-"),
            ("https://[2001:db8::1]:444/", "http://p:1"),
            ("https://[2001:db8::2]:444/", "-"),
        ] {
            assert_eq!(of(&ported, url), expected, "{url}");
        }
        let all = from(&[("ALL_PROXY", "http://p:1"), ("no_proxy", "*")]).unwrap();
        assert_eq!(of(&all, "https://login.example/"), "-");
        assert_eq!(of(&all, "https://192.0.2.1/"), "-");
        let set = Proxies::only("https://me:s3cr3t@proxy.example:8443").unwrap();
        assert_eq!(of(&set, "http://login.example/"), "https://proxy.example:8443");
        assert_eq!(of(&set, "http://127.0.0.1/"), "-");
        assert!(!format!("{set:?}").contains("s3cr3t"), "{set:?}");
        let cgi = [("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://evil:1")];
        assert_eq!(of(&from(&cgi).unwrap(), "http://login.example/"), "-");
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_an_error_and_no_direct_way() {
        for (name, text, expected) in [
            (
                "HTTPS_PROXY",
                "http://",
                "HTTPS_PROXY is \"http://\", which is not a proxy's address",
            ),
            ("https_proxy", "http://u:s3cr3t@p:99999", "https_proxy is \"p:99999\", which is not"),
            (
                "HTTP_PROXY",
                "ftp://p:21",
                "HTTP_PROXY is \"ftp://p:21\", but a proxy's address begins",
            ),
            (
                "ALL_PROXY",
                "not-a-proxy:x",
                "ALL_PROXY is \"not-a-proxy:x\", which is not a proxy's",
            ),
            ("ALL_PROXY", "not a proxy", "ALL_PROXY has a blank, a line break"),
            ("https_proxy", "http://u:s3cr3t@p\n:1", "https_proxy has a blank, a line break"),
        ] {
            let error = from(&[(name, text)]).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("s3cr3t"), "{error}");
        }
        let around = from(&[("HTTPS_PROXY", "\u{a0}http://p:1\r\n")]).unwrap();
        assert_eq!(of(&around, "https://login.example/"), "http://p:1");
        assert_eq!(of(&from(&[("HTTPS_PROXY", " ")]).unwrap(), "https://login.example/"), "-");
        let socks = from(&[("ALL_PROXY", "socks5h://p:1080")]);
        if cfg!(feature = "socks") {
            assert_eq!(of(&socks.unwrap(), "https://login.example/"), "socks5h://p:1080");
        } else {
            let error = socks.unwrap_err();
            assert!(
                error.contains("a SOCKS proxy: turn on this crate's feature `socks`"),
                "{error}"
            );
        }
        let error = Proxies::only("::").unwrap_err();
        assert_eq!(error.setting(), "proxy");
    }
}
