//! Pushes container images to Amazon ECR.
//!
//! The library never prints, never exits and never reads the environment; the command line does, in one place.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod aws;
pub mod child;
pub mod compress;
#[cfg(feature = "containerd")]
pub mod containerd;
pub mod engine;
pub mod error;
pub mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod host;
pub mod http;
pub mod image;
pub mod known;
pub mod push;
pub mod registry;
pub mod retry;
pub mod source;
#[cfg(unix)]
pub mod store;
pub mod text;

pub use error::{Error, Result};
pub use text::{Setting, Text};
