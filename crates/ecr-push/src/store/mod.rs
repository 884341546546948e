//! The store of a Docker engine on this host, read without the engine.
//!
//! The engine keeps a layer unpacked, and beside it what it takes to put the very tar together again that it once unpacked: see
//! [`Layer::open`]. Nothing is ever written, and nothing is held: what is read may vanish, and is checked by whoever reads it.

mod crc64;
mod graph;
mod layer;
mod tar_split;
#[cfg(test)]
mod tests;
mod tree;

pub use graph::GraphStore;
pub use layer::{Layer, LayerReader};
