//! What an exchange sends (RFC 8693 §2.1), with Box's additions to it.
use std::convert::Infallible;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::blanks::{check_line, check_some, check_word, trimmed};
use super::form::{Form, check_resources, push_extras, scope_text};
use super::jwt::{self, Object};
use super::limits::ACTOR_LIFE;
use super::names::{ACCESS_TOKEN, ID_TOKEN, TOKEN_EXCHANGE};
use super::provider::Provider;
use crate::request::{Actor, ExchangeRequest};

/// The parts of an exchange's form that have to be put together first.
pub(super) struct Texts {
    scope: String,
    actor_token: Option<SecretString>,
}

impl Texts {
    /// Made for each attempt, since an actor token has an `exp` and a `jti` of its own.
    ///
    /// Only Box knows of actors and shared links. Another server would ignore them, and answer with a
    /// token that may do more than was asked for; so the request is refused.
    pub(super) fn new(
        request: &ExchangeRequest,
        client_id: &str,
        provider: &Provider,
    ) -> Result<Self, String> {
        check_resources(&request.resources).map_err(|problem| format!("resource {problem}"))?;
        for audience in &request.audiences {
            check_some(audience).map_err(|problem| format!("audience {problem}"))?;
        }
        for (name, text) in [
            ("shared_link", &request.shared_link),
            ("requested_token_type", &request.requested_token_type),
        ] {
            let text = trimmed(text.as_deref().unwrap_or_default());
            check_word(text).map_err(|problem| format!("{name} {problem}"))?;
        }
        let unknown = |what| format!("this provider knows of no {what}, which only Box has");
        let actor_token = match (&request.actor, provider.actor_audience) {
            (Some(actor), Some(audience)) => Some(actor_token(actor, client_id, audience)),
            (Some(_), None) => return Err(unknown("actor")),
            (None, None) if request.shared_link.is_some() => return Err(unknown("shared link")),
            (None, _) => None,
        };
        let scope = scope_text(&request.scopes);
        check_line(&scope).map_err(|problem| format!("scope {problem}"))?;
        Ok(Self { scope, actor_token })
    }
}

/// The form, client authentication aside.
pub(super) fn form<'a>(
    subject: &'a str,
    request: &'a ExchangeRequest,
    texts: &'a Texts,
) -> Result<Form<'a>, String> {
    let mut form = vec![
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", subject),
        ("subject_token_type", ACCESS_TOKEN),
    ];
    if !texts.scope.is_empty() {
        form.push(("scope", &texts.scope));
    }
    form.extend(request.resources.iter().map(|resource| ("resource", trimmed(resource))));
    form.extend(request.audiences.iter().map(|audience| ("audience", trimmed(audience))));
    if let Some(link) = &request.shared_link {
        form.push(("box_shared_link", trimmed(link)));
    }
    if let Some(kind) = &request.requested_token_type {
        form.push(("requested_token_type", trimmed(kind)));
    }
    if let Some(token) = &texts.actor_token {
        form.push(("actor_token", token.expose_secret()));
        form.push(("actor_token_type", ID_TOKEN));
    }
    push_extras(&mut form, request.params.iter().map(|(name, value)| (&**name, &**value)))?;
    Ok(form)
}

/// What of that is secret.
pub(super) fn secrets<'a>(
    subject: &'a str,
    request: &'a ExchangeRequest,
    texts: &'a Texts,
) -> impl Iterator<Item = &'a str> {
    let actor_token = texts.actor_token.as_ref().map(ExposeSecret::expose_secret);
    let params = request.params.iter().map(|(_, value)| &**value);
    [subject].into_iter().chain(request.shared_link.as_deref()).chain(actor_token).chain(params)
}

/// Box's annotator token: an unsigned JWT (RFC 7519 §6), since the client vouches for the actor by
/// authenticating itself.
fn actor_token(actor: &Actor, client_id: &str, audience: &str) -> SecretString {
    let claims = [
        ("iss", json!(client_id)),
        ("sub", json!(actor.id)),
        ("aud", json!(audience)),
        ("box_sub_type", json!("external")),
        ("name", json!(actor.name)),
        ("exp", json!(jwt::numeric_date() + ACTOR_LIFE)),
        ("jti", json!(uuid(fastrand::u128(..)))),
    ];
    let claims = claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let header = Object::from_iter([("typ".to_owned(), json!("JWT"))]);
    let Ok(token) = jwt::encode("none", header, claims, |_| Ok::<_, Infallible>(Vec::new()));
    token
}

/// A random UUID (RFC 9562 §5.4).
fn uuid(random: u128) -> String {
    let version_and_variant = 0xf000_u128 << 64 | 0xc000_u128 << 48;
    let bits = random & !version_and_variant | 0x4000_u128 << 64 | 0x8000_u128 << 48;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Subject;

    fn pairs(provider: &Provider, request: &ExchangeRequest) -> Result<Vec<String>, String> {
        let texts = Texts::new(request, "CLIENT", provider)?;
        let form = form("SUBJECT", request, &texts)?;
        Ok(form[3..].iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn parameters_go_out_in_the_callers_order() {
        let generic = Provider::generic("https://login.example.com/token");
        let request = ExchangeRequest::scopes(["b", "a"])
            .resource("urn:2")
            .resource("urn:1")
            .audience("y")
            .audience("x")
            .requested_token_type("urn:kind")
            .param("resource", "urn:3")
            .param("extra", "1");
        assert_eq!(
            pairs(&generic, &request).unwrap(),
            [
                "scope=b a",
                "resource=urn:2",
                "resource=urn:1",
                "audience=y",
                "audience=x",
                "requested_token_type=urn:kind",
                "resource=urn:3",
                "extra=1",
            ]
        );
        assert!(pairs(&generic, &ExchangeRequest::default()).unwrap().is_empty());
    }

    #[test]
    fn blanks_and_line_breaks_are_left_out_around_and_refused_inside() {
        let generic = Provider::generic("https://login.example.com/token");
        let request =
            ExchangeRequest::scopes([" a\n", "b  c"]).audience("\tx ").resource("urn:1\n");
        let request = request.requested_token_type(" urn:k\n");
        let sent = pairs(&generic, &request).unwrap();
        let expected =
            ["scope=a b c", "resource=urn:1", "audience=x", "requested_token_type=urn:k"];
        assert_eq!(sent, expected);
        for request in [
            ExchangeRequest::default().audience("x\ny"),
            ExchangeRequest::default().resource("urn:x\ny"),
            ExchangeRequest::scopes(["a", "b\nc"]),
            ExchangeRequest::default().requested_token_type("urn: k"),
            ExchangeRequest::default().shared_link("https://box.example/s\nx"),
        ] {
            assert!(pairs(&generic, &request).unwrap_err().contains("a line break"), "{request:?}");
        }
    }

    #[test]
    fn what_would_change_the_meaning_is_refused() {
        let generic = Provider::generic("https://login.example.com/token");
        let actor = ExchangeRequest::default().actor(Actor::new("7", "Ada"));
        let link = ExchangeRequest::default().shared_link("https://app.box.com/s/abc");
        assert!(pairs(&generic, &actor).unwrap_err().contains("no actor"));
        assert!(pairs(&generic, &link).unwrap_err().contains("no shared link"));

        let own_actor = ExchangeRequest::default().param("actor_token", "eyJ");
        assert_eq!(pairs(&generic, &own_actor).unwrap(), ["actor_token=eyJ"]);
        let boxed = Provider::box_ccg(Subject::user("1"));
        let two_actors = actor.param("actor_token", "eyJ");
        assert!(pairs(&boxed, &two_actors).unwrap_err().contains("\"actor_token\""));
        for name in ["grant_type", "subject_token", "client_secret", "scope", ""] {
            assert!(pairs(&boxed, &ExchangeRequest::default().param(name, "x")).is_err(), "{name}");
        }
    }

    #[test]
    fn each_actor_token_has_a_uuid_of_its_own() {
        let id = uuid(u128::MAX);
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        let actor = Actor::new("7", "Ada");
        let token = || actor_token(&actor, "c", "a").expose_secret().to_owned();
        assert_ne!(token(), token());
    }
}
