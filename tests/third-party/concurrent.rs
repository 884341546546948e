//! Neighbours on the same machine.

use crate::image::{self, SMALL};
use crate::push::{push, reported};
use crate::stack::Stack;
use crate::verify::pull_with_skopeo;
use crate::way::{Registry, Way};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

#[test]
fn two_pushes_while_a_neighbour_moves_the_tag() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let (space, engine) = (&stack.space, stack.engine());
    image::files(space, engine, "moving-a:1", &[6 << 20, 2 << 20]);
    image::on_top(space, engine, "moving-a:1", "moving-b:1", b"the neighbour's");
    let ids = ["moving-a:1", "moving-b:1"].map(|name| engine.run(&["image", "inspect", "--format", "{{.Id}}", name]));
    engine.run(&["tag", "moving-a:1", "moving:1"]);
    stack.create_repository("concurrent/moving");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for from in ["moving-b:1", "moving-a:1"].into_iter().cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                engine.run(&["tag", from, "moving:1"]);
            }
        });
        let pushes = ["one", "two"].map(|tag| {
            let push = move || push(stack, "moving:1", "concurrent/moving", &[tag]).args(["--output", "json"]).run();
            (tag, scope.spawn(push))
        });
        let outcomes = pushes.map(|(tag, push)| (tag, push.join()));
        done.store(true, Ordering::Relaxed);
        for (tag, outcome) in outcomes {
            let digest = reported(outcome.expect("an outcome"), "concurrent/moving", &[tag]);
            // Which of the two is a matter of luck; but it is one of them, and whole: layers and config are checked on reading.
            let pulled = pull_with_skopeo(stack, &format!("concurrent/moving:{tag}"));
            assert_eq!(pulled.digest, digest);
            assert!(ids.contains(&pulled.image.config_digest), "{} is none of {ids:?}", pulled.image.config_digest);
        }
    });
}

/// Two images, of which the second has a layer more; and what they are.
fn two_images(stack: &'static Stack, name: &str) -> [String; 2] {
    let images = ["a", "b"].map(|which| format!("{name}-{which}:1"));
    image::files(&stack.space, stack.engine(), &images[0], &[200 << 10]);
    image::on_top(&stack.space, stack.engine(), &images[0], &images[1], b"the neighbour's");
    images
}

/// The tag is there when the push begins, and somebody moves it while another tag is put.
#[test]
fn a_tag_that_a_neighbour_moves_during_a_push() {
    let Some(stack) = Stack::signed(&[PARTS, &["curl"]].concat()) else {
        return;
    };
    let [ours, theirs] = two_images(stack, "live");
    let (repository, registry) = ("concurrent/live", Registry::start(stack));
    stack.create_repository(repository);
    let way = Way::start(&registry, &["PUT /manifests/new delay=5s"], None);
    let push = |image: &str, tags: &[&str]| way.push_tags(image, repository, tags).args(["--output", "json", "-v"]);
    let first = reported(push(&ours, &["live"]).run(), repository, &["live"]);
    let other = reported(push(&theirs, &["other"]).run(), repository, &["other"]);
    assert_ne!(first, other);
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| push(&ours, &["new", "live"]).run());
        std::thread::sleep(Duration::from_secs(3));
        registry.move_tag(repository, "live", "other");
        assert_eq!(registry.pull_tag(repository, "live").digest, other, "moved, while the push goes on");
        assert!(!pushing.is_finished());
        assert_eq!(reported(pushing.join().expect("an outcome"), repository, &["new", "live"]), first);
    });
    assert_eq!(way.now().hits(), 1);
    for tag in ["new", "live"] {
        assert_eq!(registry.pull_tag(repository, tag).digest, first, "{tag}");
    }
}

#[test]
fn two_pushers_of_one_tag() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let images = two_images(stack, "pushers");
    let repository = "concurrent/pushers";
    stack.create_repository(repository);
    for round in 0..4 {
        let outcomes = images.each_ref().map(|image| {
            let command = push(stack, image, repository, &["live"]).args(["--output", "json", "--wait-visible", "1s"]);
            std::thread::spawn(move || command.run())
        });
        let outcomes = outcomes.map(|push| push.join().expect("an outcome"));
        let live = pull_with_skopeo(stack, &format!("{repository}:live")).digest;
        let (well, ill): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|outcome| outcome.status == 0);
        // The one that came last is there, and it has ended well.
        let digests: Vec<String> = well.into_iter().map(|outcome| reported(outcome, repository, &["live"])).collect();
        assert!(digests.contains(&live), "round {round}: {live} is none of {digests:?}");
        for outcome in ill {
            outcome.exit(1).says(&["the tag `live`", &live]);
        }
    }
}

#[test]
fn the_same_image_twice_at_once() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    stack.create_repository("concurrent/same");
    let pushes = [(); 3].map(|()| {
        std::thread::spawn(|| push(stack, SMALL, "concurrent/same", &["v1"]).args(["--output", "json"]).run())
    });
    let digests = pushes.map(|push| reported(push.join().expect("an outcome"), "concurrent/same", &["v1"]));
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    source.image.assert_same(&pull_with_skopeo(stack, "concurrent/same:v1").image);
}

#[test]
fn dockers_configuration_is_left_alone() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("concurrent/config");
    // A credential store that does not exist: whoever asks it or writes to it fails.
    let config = r#"{ "auths": {"example.com": {}},	"credsStore": "must-not-be-asked" }"#;
    let home = stack.space.path("docker-user");
    let file = stack.space.write("docker-user/.docker/config.json", config);
    let changed = || file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    let before = changed();
    push(stack, SMALL, "concurrent/config", &["v1"]).env("HOME", &home).run().ok();
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), config);
    assert_eq!(changed(), before);
    let names =
        std::fs::read_dir(home.join(".docker")).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["config.json"], "nothing beside it");
}
