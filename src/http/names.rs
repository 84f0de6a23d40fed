//! What the RFCs call things on the wire, where no crate has the constant.

use ::http::HeaderName;

/// The header that a proof goes into (RFC 9449 §4.1).
pub(super) const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The header in which a server says what the next proof shall repeat (RFC 9449 §8).
pub(super) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// On whose behalf a request is made; no RFC has it, but Box and its like read this one, not `Forwarded`
/// (RFC 7239).
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A form (RFC 6749 §3.2), which neither reqwest nor http names.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// The only kind of answer that RFC 6749 §5.1 knows.
pub(super) const JSON: &str = "application/json";

/// No coding (RFC 9110 §12.5.3): answers are short, and what is not packed need not be unpacked, by
/// whichever features of reqwest the program happens to have.
pub(super) const IDENTITY: &str = "identity";

/// The grant type of an exchange (RFC 8693 §2.1).
pub(super) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What kind of token is exchanged (RFC 8693 §3).
pub(super) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What Box takes its actor tokens for (RFC 8693 §3).
pub(super) const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// How an assertion proves who the client is (RFC 7523 §2.2).
pub(super) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The content codings in use (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
pub(super) const CODINGS: [&str; 7] =
    ["gzip", "x-gzip", "br", "zstd", "deflate", "compress", "x-compress"];
