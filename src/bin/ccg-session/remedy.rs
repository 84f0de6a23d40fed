//! What is behind an error, and which flag mends it: by the method and by what is known of the server, since
//! a status alone says little.

use std::error::Error;

use ccg_session::{Endpoints, TokenError};

use crate::failure::in_our_words;
use crate::provider::issuer_in;
use crate::settings::{Auth, Settings};

/// What is known when something fails.
pub(crate) struct Known<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) endpoints: Option<&'a Endpoints>,
    /// The two ways of Basic write this id and this secret in two ways.
    pub(crate) basic_differs: bool,
}

const PROXY_PASSWORD: &str = "the proxy wants a user name and password: write them into its address \
    (HTTPS_PROXY or --proxy)";

const WANTS_CERTIFICATE: &str =
    "the server requires a client certificate: set --client-certificate and --client-key";

const ALLOW: &str =
    "the server does not let this client (--client-id) have a token: allow it on the server";

const BROKEN: &str = "the connection broke or could not be made";
const LATE: &str = "the server does not answer in time";
const NO_TLS: &str = "this port does not use TLS";
const NO_PLAIN_HTTP: &str = "this port does not use plain HTTP";

/// What metadata names (RFC 8414 §2).
const ENDPOINTS: [&str; 3] = ["token_endpoint", "revocation_endpoint", "introspection_endpoint"];

/// Whether what listens there may speak TLS where it was not asked to, or the other way round.
pub(crate) fn may_be_the_scheme(remedy: &str) -> bool {
    [BROKEN, LATE, NO_TLS, NO_PLAIN_HTTP].iter().any(|cause| remedy.starts_with(cause))
}

/// Whether this is an answer in that scheme, if only that of a server whose certificate is not trusted. `None` if
/// that cannot be told.
pub(crate) fn speaks(error: &TokenError, scheme: &str) -> Option<bool> {
    match error {
        TokenError::Transport { source, .. } => {
            let said = said(&**source);
            let marks = ["certificate", "Certificate", "fatal alert"];
            Some(scheme == "https" && marks.iter().any(|mark| said.contains(mark)))
        }
        // What servers with TLS tell whoever speaks plain HTTP to them.
        TokenError::Denied { status: 400, .. } | TokenError::Server { status: 400, .. }
            if scheme == "http" =>
        {
            None
        }
        _ => Some(true),
    }
}

/// All of it.
fn said(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        said = format!("{said}: {error}");
        source = error.source();
    }
    said
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Metadata,
    Grant,
    Exchange,
    Introspection,
    Revocation,
}

impl Known<'_> {
    /// The cause, and the flag.
    pub(crate) fn remedy(&self, asked: Asked, error: &TokenError) -> String {
        match error {
            TokenError::Denied { status, .. }
                if asked == Asked::Metadata && !(300..400).contains(status) =>
            {
                self.metadata(&error.to_string())
            }
            TokenError::Denied { description, status, .. } => {
                let description = description.as_deref().unwrap_or_default();
                if description.contains("this machine's clock is") {
                    return "this machine's clock is wrong: set it, since what is signed is dated by it".into();
                }
                match status {
                    300..=399 => self.moved(asked, description),
                    405 => self.no_post(asked),
                    404 | 410 => self.nothing_there(asked),
                    _ => self.refused(asked, error),
                }
            }
            TokenError::Credential { source, .. } => {
                let what = match &self.settings.client_secret_file {
                    Some(_) => "what --client-secret-file names",
                    None => "what CCG_SESSION_CLIENT_SECRET holds",
                };
                format!("{what} {}", in_our_words(&source.to_string()))
            }
            TokenError::RateLimited { .. } => {
                "the server limits requests: wait, and share one session".into()
            }
            TokenError::Server { status: 407, .. } => PROXY_PASSWORD.into(),
            TokenError::Server { status: 405, .. } => self.no_post(asked),
            TokenError::Server { status: 404 | 410, .. } => self.nothing_there(asked),
            // What some servers tell whoever speaks plain HTTP to a port for TLS.
            TokenError::Server { status: 400, description: Some(words), address: Some(address), .. }
                if words.contains("web page") && address.starts_with("http:") =>
            {
                format!(
                    "{}; perhaps this port does not use plain HTTP: then use https: in {}",
                    self.malformed(asked, words),
                    self.address(asked)
                )
            }
            // Of whoever is before it.
            TokenError::Server { status: ..500, description: Some(words), .. }
                if words.contains("web page") =>
            {
                self.malformed(asked, words)
            }
            TokenError::Server { .. } => {
                "the server itself has failed: try again later, or with more --attempts".into()
            }
            TokenError::Malformed { reason, .. } => self.malformed(asked, reason),
            TokenError::Expired { .. } => {
                "the server issues tokens that have already expired: check its clock and its token \
                    lifetime".into()
            }
            TokenError::Transport { source, address, .. } => {
                self.transport(asked, &**source, address.as_deref().unwrap_or_default())
            }
            TokenError::TimedOut { address: Some(place), .. } if place.starts_with("the file ") => {
                "what --client-secret-file names does not answer: check the path, and what is mounted there"
                    .into()
            }
            TokenError::TimedOut { .. } => format!(
                "{LATE}: check {}, the network and its proxy, or give it \
                 longer (--attempt-timeout)",
                self.address(asked)
            ),
            _ => "unexpected error: see the server's documentation".into(),
        }
    }

    /// The flag that the address comes from.
    fn address(&self, asked: Asked) -> &'static str {
        let Settings { revocation_url, introspection_url, issuer, box_base_url, .. } =
            self.settings;
        match asked {
            Asked::Revocation if revocation_url.is_some() => "--revocation-url",
            Asked::Introspection if introspection_url.is_some() => "--introspection-url",
            _ if issuer.is_some() => "--issuer",
            _ if box_base_url.is_some() => "--box-base-url",
            _ if self.settings.is_box() => {
                "the network (this is Box's own address, which has no flag)"
            }
            _ => "--token-url",
        }
    }

    /// The remedy, now that it is known which other scheme is spoken there, if one is.
    pub(crate) fn with_scheme(
        &self,
        asked: Asked,
        remedy: String,
        scheme: &str,
        is_spoken: bool,
    ) -> String {
        let flag = self.address(asked);
        match scheme {
            "http" if is_spoken => format!("{NO_TLS}: use http: in {flag}, or another port"),
            _ if is_spoken => format!("{NO_PLAIN_HTTP}: use https: in {flag}"),
            _ if remedy.starts_with(NO_TLS) || remedy.starts_with(NO_PLAIN_HTTP) => {
                format!("this port uses neither HTTP nor TLS: check the port in {flag}")
            }
            _ => remedy,
        }
    }

    /// What to do if the address is of no use that the metadata names.
    fn in_place_of_metadata(&self, asked: Asked) -> Option<&'static str> {
        let Settings { issuer, revocation_url, introspection_url, .. } = self.settings;
        issuer.as_ref()?;
        match asked {
            Asked::Introspection if introspection_url.is_none() => {
                Some("give --introspection-url, or --skip introspection")
            }
            Asked::Revocation if revocation_url.is_none() => {
                Some("give --revocation-url, or --skip revocation")
            }
            _ => None,
        }
    }

    fn nothing_there(&self, asked: Asked) -> String {
        if let Some(mend) = self.in_place_of_metadata(asked) {
            return format!(
                "the server has nothing at the address that its metadata names: {mend}"
            );
        }
        let flag = self.address(asked);
        format!("the server has nothing at this address: check {flag} (a slash at the end counts)")
    }

    fn no_post(&self, asked: Asked) -> String {
        if let Some(mend) = self.in_place_of_metadata(asked) {
            return format!("the address that the metadata names does not accept POST: {mend}");
        }
        let flag = self.address(asked);
        format!("this address does not accept POST, so it is not this endpoint: check {flag}")
    }

    fn moved(&self, asked: Asked, description: &str) -> String {
        let flag = self.address(asked);
        let target =
            description.split("redirects to ").nth(1).and_then(|rest| rest.split(';').next());
        match target {
            Some(target) if asked == Asked::Metadata => format!(
                "the server redirects, which no request follows: give {flag} {}",
                issuer_in(target).as_deref().unwrap_or(target)
            ),
            Some(target) if target.to_lowercase().contains("login") => format!(
                "the server redirects to a page for people to log in, so it is not this endpoint: check {flag}"
            ),
            Some(target) => match self.in_place_of_metadata(asked) {
                Some(mend) => {
                    format!("the address that the metadata names has moved to {target}: {mend}")
                }
                None => {
                    format!("the server redirects, which no request follows: give {flag} {target}")
                }
            },
            None => format!("the server redirects, which no request follows: check {flag}"),
        }
    }

    fn refused(&self, asked: Asked, error: &TokenError) -> String {
        let TokenError::Denied { error: code, description, status, .. } = error else {
            return String::new();
        };
        let says = description.as_deref().unwrap_or_default().to_lowercase();
        let Settings { scope, resource, audience, dpop_key, auth, client_certificate, .. } =
            self.settings;
        let wants = |word| code.to_lowercase().contains(word) || says.contains(word);
        if dpop_key.is_none() && wants("dpop") {
            return "the server requires DPoP: set --dpop-key".into();
        }
        // What an assertion is signed with is a certificate too, to some.
        let is_signed =
            matches!(auth, Some(Auth::SecretJwt | Auth::PrivateKeyJwt | Auth::Assertion));
        if client_certificate.is_none() && !is_signed && (wants("certificate") || wants("mtls")) {
            return WANTS_CERTIFICATE.into();
        }
        match &**code {
            "invalid_client" => self.client(asked),
            // Keycloak says so of a wrong secret.
            "unauthorized_client" if says.contains("credentials") => self.client(asked),
            "invalid_grant" if is_signed => self.client(asked),
            "unauthorized_client" => format!(
                "the server does not allow {} for this client (--client-id): allow it on the server",
                if asked == Asked::Exchange { "token exchange" } else { "client credentials" }
            ),
            "unsupported_grant_type" if asked == Asked::Exchange => {
                "the server does not support token exchange: use --skip exchange".into()
            }
            "unsupported_grant_type" => format!(
                "this address does not support the client credentials grant: check {}",
                self.address(asked)
            ),
            "invalid_scope" if asked == Asked::Exchange => {
                "the token cannot be exchanged for these scopes: use --exchange-scope with a subset of its \
                    scopes"
                    .into()
            }
            "invalid_scope" if scope.is_empty() => {
                "no scope was asked for, and the server wants one: try --scope".into()
            }
            "invalid_scope" => {
                "the server does not allow these scopes for this client: check --scope, or allow them on the \
                    server".into()
            }
            "invalid_target"
                if asked != Asked::Exchange && resource.is_empty() && audience.is_empty() =>
            {
                "no resource or audience was asked for, and the server wants one: try --audience or \
                 --resource"
                    .into()
            }
            "invalid_target" => {
                "the server does not know the requested resource or audience: check --resource and \
                    --audience".into()
            }
            "invalid_grant" if self.settings.is_box() => {
                "Box does not let this application act like that: check --box-enterprise or --box-user, and that \
                 the application is authorized there"
                    .into()
            }
            "unusable_token_type" if dpop_key.is_some() => {
                "the server does not support DPoP: remove --dpop-key".into()
            }
            "unusable_token_type" => format!(
                "the server gives tokens that are not for a Bearer header: check {}, and what it gives",
                self.address(asked)
            ),
            "invalid_dpop_proof" | "use_dpop_nonce" => {
                "the server does not accept the proof of --dpop-key: check this machine's clock, and that the \
                 server takes keys of this kind (many want one on the curve P-256)"
                    .into()
            }
            "unsupported_token_type" if asked == Asked::Revocation => {
                "the server does not revoke access tokens: use --skip revocation".into()
            }
            "invalid_request" if asked == Asked::Grant => {
                let missing: Vec<_> = [
                    ("--scope", scope.is_empty()),
                    ("--audience", audience.is_empty()),
                    ("--resource", resource.is_empty()),
                    ("--param", true),
                ]
                .into_iter()
                .filter_map(|(flag, is_missing)| is_missing.then_some(flag))
                .collect();
                let named = missing.iter().find(|flag| says.contains(flag.trim_start_matches('-')));
                if let Some(flag) = named.filter(|flag| **flag != "--param") {
                    return format!("the server wants a parameter that was not given: try {flag}");
                }
                format!("a parameter is missing or wrong: some servers want {}", missing.join(" or "))
            }
            _ if *status == 401 => self.client(asked),
            _ if dpop_key.is_some() && asked == Asked::Grant => {
                "the server refuses the request, possibly because of the key: try without --dpop-key".into()
            }
            "access_denied" if asked == Asked::Grant && says.contains("audience") => {
                "the server wants to be told another audience: check --audience".into()
            }
            "access_denied" if asked == Asked::Grant => ALLOW.into(),
            _ if *status == 403 && asked == Asked::Grant => ALLOW.into(),
            _ => self.refused_for_its_own_reason(asked),
        }
    }

    fn refused_for_its_own_reason(&self, asked: Asked) -> String {
        let flag = self.address(asked);
        let refused = "the server refuses the request (its own words follow)";
        match asked {
            Asked::Metadata => format!("{refused}: check {flag}"),
            Asked::Grant => format!(
                "{refused}: check {flag}, and whether it wants --scope, --audience or --param"
            ),
            Asked::Exchange => format!("{refused}: --skip exchange if it has none"),
            Asked::Introspection => format!("{refused}: check {flag}, or --skip introspection"),
            Asked::Revocation => format!("{refused}: check {flag}, or --skip revocation"),
        }
    }

    /// Why the server does not accept this client for who it is.
    fn client(&self, asked: Asked) -> String {
        let auth = self.settings.auth.unwrap_or(Auth::Post);
        // It has been taken for a grant.
        if !matches!(asked, Asked::Grant | Asked::Metadata) {
            return match auth {
                Auth::SecretJwt | Auth::PrivateKeyJwt => {
                    "here the server refuses an assertion that it accepts for a grant: it may want another \
                     --revocation-audience"
                }
                _ => "the server refuses this client at this endpoint, though it accepts it for a grant: \
                    allow it on the server",
            }
            .into();
        }
        if let Some(methods) = self.endpoints.and_then(Endpoints::auth_methods)
            && let Some(name) = auth.registered()
            && !methods.iter().any(|method| method == name)
        {
            let name = match auth {
                Auth::None => "no client without a secret".to_owned(),
                _ => format!("no {name}"),
            };
            let known: Vec<_> = methods.iter().filter(|method| Auth::is_known(method)).collect();
            let known: Vec<_> = known.into_iter().map(String::as_str).collect();
            return match &known[..] {
                [] => {
                    format!("the server's metadata names {name}, nor another method of --auth")
                }
                _ => {
                    format!("the server's metadata names {name}: try --auth {}", known.join(" or "))
                }
            };
        }
        let secret = match &self.settings.client_secret_file {
            Some(_) => "--client-secret-file",
            None => "CCG_SESSION_CLIENT_SECRET (or --client-secret-file)",
        };
        match auth {
            Auth::Basic | Auth::BasicRaw if self.basic_differs => {
                let (who, other) = match auth {
                    Auth::Basic => ("not all servers", "basic-raw"),
                    _ => ("most servers", "basic"),
                };
                format!(
                    "the server does not accept this id and secret, which have characters that {who} decode: \
                     try --auth {other}, else check --client-id and {secret}"
                )
            }
            Auth::Basic | Auth::BasicRaw | Auth::Post => {
                let other = if auth == Auth::Post { "basic" } else { "post" };
                format!(
                    "the server does not accept this id and secret: check --client-id and {secret}, or try \
                     --auth {other}"
                )
            }
            Auth::SecretJwt => format!(
                "the server does not accept what this secret signs: check --client-id and {secret}, and the \
                 audience of its assertions (--assertion-audience)"
            ),
            Auth::PrivateKeyJwt => {
                "the server does not accept what this key signs: it must know the key's public half \
                 (--key-id, --algorithm) and be the assertion's audience (--assertion-audience)"
                    .into()
            }
            Auth::Assertion => {
                "the server does not accept this assertion: check --client-id, its audience, and that it has \
                 neither expired nor been used"
                    .into()
            }
            Auth::TlsClient => {
                "the server does not accept this certificate: check --client-id, and that the server knows \
                 --client-certificate, or its subject and CA"
                    .into()
            }
            Auth::None => {
                "the server requires client authentication: set another --auth, and a secret or key"
                    .into()
            }
        }
    }

    fn metadata(&self, reason: &str) -> String {
        if reason.contains("redirects to ") {
            return self.moved(Asked::Metadata, reason);
        }
        let other = reason.split("its issuer is \"").nth(1);
        if let Some(issuer) = other.and_then(|rest| rest.split("\": if that").next()) {
            return format!(
                "the metadata belongs to another issuer: if that is who is meant, give --issuer {issuer}"
            );
        }
        if reason.contains("it names no issuer") {
            return "the server's metadata names no issuer: have it fixed, or give --token-url in place of \
                    --issuer"
                .into();
        }
        if reason.contains("without TLS") {
            return "the server's metadata names an address without TLS: give --token-url in place of \
                    --issuer, or --allow-insecure-http if the way there is safe"
                .into();
        }
        // Whatever else is wrong with it, there is some.
        if let Some(name) = ENDPOINTS.iter().find(|name| reason.contains(**name)) {
            return format!(
                "the server's metadata has no {name} that can be used: have it fixed, or give \
                 --token-url in place of --issuer"
            );
        }
        if reason.contains("is longer than 1 MiB") {
            return "what answers there is too long for metadata: check --issuer, or give --token-url in \
                    its place"
                .into();
        }
        "the server publishes no metadata for this --issuer: check it, or give --token-url in its place".into()
    }

    fn malformed(&self, asked: Asked, reason: &str) -> String {
        let flag = self.address(asked);
        if asked == Asked::Metadata {
            return self.metadata(reason);
        }
        if let Some(mend) = self.in_place_of_metadata(asked) {
            return format!(
                "the address that the metadata names does not respond like this endpoint: {mend}"
            );
        }
        if reason.contains("no access_token") {
            return format!(
                "the response has no access token: check {flag}, and what the server grants this client"
            );
        }
        if reason.contains("web page") {
            return format!("the response is a web page: check {flag} and the proxy");
        }
        format!("this address does not respond like an OAuth 2.0 server: check {flag}")
    }

    fn transport(&self, asked: Asked, error: &(dyn Error + 'static), address: &str) -> String {
        let flag = self.address(asked);
        let said = said(error);
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if has(&["InvalidContentType", "wrong version number"]) {
            return format!("{NO_TLS}: use http: in {flag}, or another port");
        }
        if has(&["invalid HTTP version", "UnexpectedMessage", "unexpected message"]) {
            return format!("{NO_PLAIN_HTTP}: use https: in {flag}");
        }
        if has(&["fatal alert"]) && self.settings.client_certificate.is_some() {
            return "the server does not accept this client's certificate: check --client-certificate, and \
                    that the server knows its CA"
                .into();
        }
        if has(&["proxy authorization required", "proxy auth"]) {
            return PROXY_PASSWORD.into();
        }
        if has(&["CaUsedAsEndEntity"]) {
            return "the server shows the certificate of a CA as its own: have it issue one for its name, \
                    and give the CA with --root-certificate"
                .into();
        }
        if has(&["UnknownIssuer", "UnhandledCriticalExtension"]) {
            return "this machine does not trust the issuer of the server's certificate: set its CA with \
                --root-certificate"
                .into();
        }
        if has(&["not valid for name", "NotValidForName"]) {
            return format!("the server's certificate is for another name: check {flag}");
        }
        if has(&["certificate", "Certificate"]) && !has(&["CertificateRequired"]) {
            return "the server's certificate cannot be used: fix it there, or check this machine's \
                clock".into();
        }
        if has(&["CertificateRequired", "HandshakeFailure"]) {
            return WANTS_CERTIFICATE.into();
        }
        // What connects to it is the proxy, and no other host is looked up here.
        if let Some((_, proxy)) = address.split_once(" through the proxy ") {
            let set = match &self.settings.proxy {
                Some(_) => "--proxy",
                None => "HTTPS_PROXY (or --proxy)",
            };
            if has(&["dns error", "lookup address", "resolve", "refused"]) {
                return format!("nobody is there at the proxy {proxy}: check {set}");
            }
            if has(&["tunnel error"]) {
                return format!(
                    "the proxy {proxy} does not connect to the server: check {set}, its rules, and {flag}"
                );
            }
            return format!(
                "the connection through the proxy {proxy} broke or could not be made: check {set}, and {flag}"
            );
        }
        if has(&["dns error", "lookup address", "resolve"]) {
            return format!("there is no such host: check {flag}");
        }
        if has(&["refused"]) {
            return format!(
                "nothing listens at this address: check {flag}, and the proxy (HTTPS_PROXY)"
            );
        }
        format!("{BROKEN}: check {flag}, the network and its proxy (HTTPS_PROXY)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_that_hangs_is_named_and_no_address() {
        let settings = Settings::default();
        let known = Known { settings: &settings, endpoints: None, basic_differs: false };
        let late = || TokenError::timed_out(Duration::from_secs(10));
        let at = |place: &str| known.remedy(Asked::Grant, &late().with_address(place));
        assert!(at("the file /run/secret").contains("--client-secret-file"));
        assert!(at("https://as.example/token").contains("--token-url"));
        assert!(known.remedy(Asked::Grant, &late()).contains("--token-url"));
    }
}
