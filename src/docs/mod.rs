//! A tutorial, how-to guides and the design. The rest of these pages are the API reference.
//!
//! | you want to | read |
//! |---|---|
//! | get to know the crate | [`tutorial`]: from nothing to a token in use |
//! | set it up with your server | [`guides::servers`] |
//! | add tokens to requests, and handle 401s | [`crate::middleware`] |
//! | act for many tenants | [`guides::tenants`] |
//! | run many replicas | [`guides::fleet`] |
//! | test your own code | [`guides::testing`] |
//! | use it from synchronous code | [`guides::synchronous`] |
//! | do without tokio's macros | [`guides::without_macros`] |
//! | migrate from another library | [`guides::coming_from`] |
//! | run it in production | [`guides::operations`] |
//! | upgrade | [`guides::upgrading`] |
//! | know how it works, and why | [`design`] |
//! | contribute | [the end of `design`](design#for-contributors) |

#[doc = include_str!("tutorial.md")]
pub mod tutorial {}

pub mod guides;

#[doc = include_str!("design.md")]
pub mod design {}
