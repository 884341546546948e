//! Tests in which others are the judges: a real engine builds the images, a real registry takes them, `moto` checks signatures and
//! permissions, and `skopeo` and `docker pull` bring the images back.
//!
//! Each [`stack::Stack`] lives in its own network, mount and process namespace, so it may use port 443, its own `/etc/hosts`, and
//! dies with the test process, whatever ends it. A part that is not installed skips the tests that need it, loudly; with
//! `ECR_PUSH_REQUIRE_PARTS=1` they fail instead.

#![cfg(unix)]

mod agent;
mod archive;
mod certificates;
mod command;
mod engine;
mod image;
mod pages;
mod parts;
mod push;
#[path = "../../crates/ecr-push/tests/common/reliability.rs"]
mod reliability;
mod space;
mod stack;
mod verify;
mod way;

mod harness;

mod azure_extension;
mod azure_golden;
mod bad_input;
mod concurrent;
mod container;
mod containerd;
mod credentials;
mod doors;
mod faults;
mod github;
mod gitlab;
mod indexes;
mod layers;
mod lies;
mod limits;
mod local_ecr;
mod local_names;
mod permissions;
mod process;
mod proxy;
mod release;
mod repository;
mod reuse;
mod sharing;
mod snippets;
mod sources;
mod store;
mod supply;
mod vsix;
mod workflow;
