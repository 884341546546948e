//! What happens when this machine is the limit.

use crate::image::BIG;
use crate::push::push;
use crate::stack::Stack;

#[test]
fn a_full_disk_is_one_sentence_with_the_bytes_needed() {
    let Some(stack) = Stack::signed(&["dockerd", "docker", "mount"]) else {
        return;
    };
    stack.image(BIG);
    stack.create_repository("limits/disk");
    let small = stack.space.path("small-disk");
    std::fs::create_dir(&small).expect("a folder");
    stack.space.command("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small).run().ok();
    let outcome = push(stack, BIG, "limits/disk", &["v1"]).arg("--temp-dir").arg(&small).run();
    let outcome = outcome.exit(1).refused().says(&["disk", "full", "bytes", "--temp-dir"]);
    assert!(outcome.stdout.is_empty());
    assert_eq!(std::fs::read_dir(&small).expect("the folder").count(), 0);
}
