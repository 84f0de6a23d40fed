//! Providers that are known by name. Small data: what would be written with the setters of [`Provider`],
//! so that a new one is no new code path.
//!
//! None needs other buffers than a session's default.

use super::blanks::trimmed;
use super::client_auth::ClientAuth;
use super::provider::{Layout, Preset, Provider, Subject};

const BOX: Preset = Preset {
    layout: Layout {
        token: "/oauth2/token",
        revocation: Some("/oauth2/revoke"),
        introspection: None,
    },
    auth: ClientAuth::Post,
    limits: &[],
};

/// Revokes only refresh tokens: <https://auth0.com/docs/secure/tokens/refresh-tokens/revoke-refresh-tokens>.
/// The body comes with 500: <https://community.auth0.com/t/global-limit-has-been-reached/77440>.
const AUTH0: Preset = Preset {
    layout: Layout { token: "/oauth/token", revocation: None, introspection: None },
    auth: ClientAuth::Post,
    limits: &[("access_denied", "limit has been reached")],
};

const OKTA: Preset = Preset {
    layout: Layout {
        token: "/v1/token",
        revocation: Some("/v1/revoke"),
        introspection: Some("/v1/introspect"),
    },
    auth: ClientAuth::Basic,
    limits: &[],
};

/// Revokes nothing; asks for less with 429 and `Retry-After`:
/// <https://learn.microsoft.com/en-us/entra/msal/dotnet/advanced/client-and-server-throttling>.
const ENTRA_ID: Preset = Preset {
    layout: Layout { token: "/oauth2/v2.0/token", revocation: None, introspection: None },
    auth: ClientAuth::Post,
    limits: &[],
};

const KEYCLOAK: Preset = Preset {
    layout: Layout {
        token: "/protocol/openid-connect/token",
        revocation: Some("/protocol/openid-connect/revoke"),
        introspection: Some("/protocol/openid-connect/token/introspect"),
    },
    auth: ClientAuth::Basic,
    limits: &[],
};

/// Revokes only refresh tokens:
/// <https://docs.aws.amazon.com/cognito/latest/developerguide/revocation-endpoint.html>.
const COGNITO: Preset = Preset {
    layout: Layout { token: "/oauth2/token", revocation: None, introspection: None },
    auth: ClientAuth::Basic,
    limits: &[],
};

const GOOGLE_STYLE: Preset = Preset {
    layout: Layout { token: "/token", revocation: Some("/revoke"), introspection: None },
    auth: ClientAuth::Post,
    limits: &[],
};

impl Provider {
    /// Box, with the Client Credentials Grant:
    /// <https://developer.box.com/guides/authentication/client-credentials/>.
    #[doc(alias = "CCGSession")]
    pub fn box_ccg(subject: Subject) -> Self {
        Self::preset(&BOX, "https://api.box.com").on_behalf_of(subject)
    }

    /// Auth0, for the API with this identifier:
    /// <https://auth0.com/docs/get-started/authentication-and-authorization-flow/client-credentials-flow/call-your-api-using-the-client-credentials-flow>.
    /// It revokes no access tokens.
    ///
    /// ```
    /// # use ccg_session::Provider;
    /// Provider::auth0("https://tenant.eu.auth0.com", "https://api.example.com");
    /// ```
    pub fn auth0(base: &str, audience: impl Into<String>) -> Self {
        Self::preset(&AUTH0, base).audience(audience)
    }

    /// Okta, by the issuer URL of one of its authorization servers:
    /// <https://developer.okta.com/docs/guides/implement-grant-type/clientcreds/main/>. A custom authorization server requires at least one [`scope`](Self::scope).
    ///
    /// ```
    /// # use ccg_session::Provider;
    /// Provider::okta("https://dev-123.okta.com/oauth2/default").scope("read");
    /// ```
    pub fn okta(issuer: &str) -> Self {
        Self::preset(&OKTA, issuer)
    }

    /// Microsoft Entra ID (v2.0), for an API given by its App ID URI. The scope is `.default`: the permissions
    /// that an administrator has granted.
    /// <https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow>. It
    /// revokes no tokens. For other clouds set a different [`base_url`](Self::base_url), including the tenant.
    ///
    /// ```
    /// # use ccg_session::Provider;
    /// Provider::entra_id("6babcaad-604b-40ac-a9d7-9fd97c0b779f", "https://graph.microsoft.com");
    /// ```
    pub fn entra_id(tenant: &str, api: &str) -> Self {
        // A URI that ends with a slash keeps it: its scope then has two.
        let (tenant, scope) = (trimmed(tenant), format!("{}/.default", trimmed(api)));
        Self::preset(&ENTRA_ID, &format!("https://login.microsoftonline.com/{tenant}")).scope(scope)
    }

    /// A realm of Keycloak, by its issuer: <https://www.keycloak.org/securing-apps/oidc-layers>.
    ///
    /// ```
    /// # use ccg_session::Provider;
    /// Provider::keycloak("https://sso.example.com/realms/main");
    /// ```
    pub fn keycloak(issuer: &str) -> Self {
        Self::preset(&KEYCLOAK, issuer)
    }

    /// Amazon Cognito, by the domain of a user pool:
    /// <https://docs.aws.amazon.com/cognito/latest/developerguide/token-endpoint.html>. It revokes no
    /// access tokens.
    ///
    /// ```
    /// # use ccg_session::Provider;
    /// Provider::cognito("https://pool.auth.eu-central-1.amazoncognito.com").scope("api/read");
    /// ```
    pub fn cognito(base: &str) -> Self {
        Self::preset(&COGNITO, base)
    }

    /// A server with Google's layout, `/token` and `/revoke` under its base:
    /// <https://developers.google.com/identity/protocols/oauth2/web-server>. (Google's own server, `https://oauth2.googleapis.com`, does not support the client credentials grant.)
    ///
    /// ```
    /// # use ccg_session::Provider;
    /// Provider::google_style("https://oauth2.example.com");
    /// ```
    pub fn google_style(base: &str) -> Self {
        Self::preset(&GOOGLE_STYLE, base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_asks_where_and_as_its_provider_wants_it() {
        let tenant = "https://login.microsoftonline.com/T";
        for (provider, [token, revocation, introspection], auth, asks) in [
            (
                Provider::box_ccg(Subject::user("7")),
                ["https://api.box.com/oauth2/token", "https://api.box.com/oauth2/revoke", ""],
                ClientAuth::Post,
                "box_subject_type=user box_subject_id=7",
            ),
            (
                Provider::auth0("https://t.auth0.com/", "https://api.example.com"),
                ["https://t.auth0.com/oauth/token", "", ""],
                ClientAuth::Post,
                "audience=https://api.example.com",
            ),
            (
                Provider::okta("https://d.okta.com/oauth2/default"),
                [
                    "https://d.okta.com/oauth2/default/v1/token",
                    "https://d.okta.com/oauth2/default/v1/revoke",
                    "https://d.okta.com/oauth2/default/v1/introspect",
                ],
                ClientAuth::Basic,
                "",
            ),
            (
                Provider::entra_id("T", "https://vault.azure.net"),
                [&format!("{tenant}/oauth2/v2.0/token"), "", ""],
                ClientAuth::Post,
                "scope=https://vault.azure.net/.default",
            ),
            (
                Provider::entra_id("T", "api://x").base_url("https://login.microsoftonline.us/T"),
                ["https://login.microsoftonline.us/T/oauth2/v2.0/token", "", ""],
                ClientAuth::Post,
                "scope=api://x/.default",
            ),
            (
                Provider::keycloak("https://k.example/realms/a"),
                [
                    "https://k.example/realms/a/protocol/openid-connect/token",
                    "https://k.example/realms/a/protocol/openid-connect/revoke",
                    "https://k.example/realms/a/protocol/openid-connect/token/introspect",
                ],
                ClientAuth::Basic,
                "",
            ),
            (
                Provider::cognito("https://p.auth.eu-central-1.amazoncognito.com"),
                ["https://p.auth.eu-central-1.amazoncognito.com/oauth2/token", "", ""],
                ClientAuth::Basic,
                "",
            ),
            (
                Provider::google_style("https://oauth2.example.com"),
                ["https://oauth2.example.com/token", "https://oauth2.example.com/revoke", ""],
                ClientAuth::Post,
                "",
            ),
        ] {
            let known = provider.check(false, false).unwrap().known().unwrap();
            assert_eq!(known.token_url(), token);
            assert_eq!(known.revocation_url().unwrap_or_default(), revocation, "{token}");
            assert_eq!(known.introspection_url().unwrap_or_default(), introspection, "{token}");
            assert_eq!(provider.client_auth, auth, "{token}");
            let scope = provider.scope_text();
            let form = provider.grant_form(provider.subject(), &scope).unwrap();
            let form: Vec<_> =
                form[1..].iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(form.join(" "), asks, "{token}");
        }
    }
}
