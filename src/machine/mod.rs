mod event;
pub use event::*;
