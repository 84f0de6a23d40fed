//! The form that a request sends.

use url::Url;

use super::address::without_secrets;
use super::blanks::{check_word, trimmed};

/// The pairs of a form, in the order in which they are sent.
pub(super) type Form<'a> = Vec<(&'a str, &'a str)>;

/// Adds the parameters that are the user's own, unless one would change what the request means.
///
/// No parameter may be there twice (RFC 6749 §3.2), but for `resource` and `audience` (RFC 8693 §2.1).
pub(super) fn push_extras<'a>(
    form: &mut Form<'a>,
    extras: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    const RESERVED: [&str; 10] = [
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "scope",
        "subject_token",
        "subject_token_type",
        "requested_token_type",
        "token",
    ];
    for (name, value) in extras {
        if name.is_empty() {
            return Err("has an empty name: give it one, or leave it out".into());
        }
        check_word(name).map_err(|problem| format!("{name:?} {problem}"))?;
        if RESERVED.contains(&name) {
            return Err(format!(
                "{name:?} is the protocol's own: leave it out, there is a setting for it"
            ));
        }
        let repeatable = matches!(name, "resource" | "audience");
        if !repeatable && form.iter().any(|(present, _)| *present == name) {
            return Err(format!("{name:?} is there already: it can be sent only once"));
        }
        form.push((name, value));
    }
    Ok(())
}

/// A `resource` is an absolute URI without a fragment (RFC 8707 §2): another would be refused by a server
/// that looks, and ignored by one that does not.
pub(super) fn check_resources(resources: &[String]) -> Result<(), String> {
    for resource in resources.iter().map(|resource| trimmed(resource)) {
        check_word(resource)?;
        let shown = without_secrets(resource);
        match Url::parse(resource) {
            Ok(_) if resource.contains('#') => {
                return Err(format!(
                    "is {shown:?} with a fragment, which it must not have (RFC 8707 §2)"
                ));
            }
            Ok(_) => {}
            Err(error) => {
                return Err(format!(
                    "is {shown:?}, which is no absolute URI ({error}): write it in full, such as \
                     \"https://api.example.com\", or use audience, which takes any name"
                ));
            }
        }
    }
    Ok(())
}

/// Scopes as they are sent (RFC 6749 §3.3): there is one space between two. A line break inside of one stays,
/// to be refused.
pub(super) fn scope_text(scopes: &[String]) -> String {
    let scopes = scopes.iter().flat_map(|scope| trimmed(scope).split(' '));
    scopes.filter(|scope| !scope.is_empty()).collect::<Vec<_>>().join(" ")
}
