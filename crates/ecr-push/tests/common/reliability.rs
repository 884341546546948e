//! What the tests of reliability share: how much they do, and where their figures go.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;

/// True for `./test --long`.
pub fn is_long() -> bool {
    std::env::var_os("ECR_PUSH_LONG").is_some()
}

/// How often something is done in a short run and in a long one.
pub fn count(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// Writes figures to `target/reliability/NAME.md`: a part of `docs/reliability.md`.
pub fn write(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("reliability");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.md")), text).unwrap();
}
