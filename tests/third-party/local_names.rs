//! The pushed image in a real engine: its name there after the push, and its removal. The library is called itself, because
//! the command shows only a part of what it answers.

use crate::engine::Engine;
use crate::image::SMALL;
use crate::stack::{HOST, Stack};
use ecr_push::aws::{AwsSettings, Keys};
use ecr_push::containerd::ContainerdSettings;
use ecr_push::engine::EngineSettings;
use ecr_push::events::Events;
use ecr_push::http::HttpSettings;
use ecr_push::push::{DestinationSpec, LocalImage, PushRequest, Removed, ReuseSettings, push};
use ecr_push::registry::DockerConfig;
use ecr_push::source::Selection;
use local_ecr::{Config, LocalEcr};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// One engine, and a registry in this process.
struct Desk {
    engine: &'static Engine,
    runtime: Runtime,
    registry: LocalEcr,
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(engine: &'static Engine) -> Self {
        let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let registry = runtime.block_on(LocalEcr::start(Config::default())).expect("a registry");
        Self { engine, runtime, registry, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Pushes `image` from the engine.
    fn push(&self, image: &str, dry_run: bool) -> Option<LocalImage> {
        let request = PushRequest {
            source: image.parse().expect("a source"),
            selection: Selection::default(),
            destination: DestinationSpec::Ecr {
                repository: "app".parse().expect("a name"),
                registry_id: None,
                host: None,
            },
            tags: vec!["v1".parse().expect("a tag")],
            create_repository: true,
            jobs: 2,
            threads: 2,
            compression: None,
            reuse: ReuseSettings::default(),
            use_engine_store: true,
            temp_dir: self.folder.path().to_owned(),
            retry_budget: Duration::from_secs(5),
            wait_visible: None,
            dry_run,
            show_identity: false,
            engine: EngineSettings { host: Some(self.engine.host()), ..EngineSettings::default() },
            containerd: ContainerdSettings::default(),
            http: HttpSettings::default(),
            aws: AwsSettings {
                region: Some("us-east-1".parse().expect("a region")),
                endpoint_url: Some(self.registry.endpoint_url()),
                explicit_keys: Some(Keys {
                    origin: "the test".into(),
                    access_key_id: "AKIATEST".into(),
                    secret_access_key: "secret".into(),
                    session_token: None,
                }),
                ..AwsSettings::default()
            },
            docker_config: DockerConfig::default(),
        };
        self.runtime.block_on(push(request, Events::none())).expect("a push").local
    }

    fn tag(&self, local: &LocalImage, name: &str) {
        self.runtime.block_on(local.tag(name)).expect("a name");
    }

    fn remove(&self, local: &LocalImage, targets: &[&str]) -> ecr_push::Result<Removed> {
        let targets: Vec<String> = targets.iter().map(|&target| target.to_owned()).collect();
        self.runtime.block_on(local.remove(&targets))
    }

    /// The ID that a name means, as the Docker CLI sees it.
    fn id(&self, name: &str) -> Option<String> {
        let outcome = self.engine.try_docker(&["image", "inspect", "--format", "{{.Id}}", name]).run();
        let id = outcome.stdout.trim().trim_start_matches("sha256:").to_owned();
        (outcome.status == 0).then_some(id)
    }

    /// What both engines have in common. `source` is an image's only name.
    fn names_come_and_go(&self, source: &str) {
        let (target, kept) = ("localhost:1234/team/app:v1", "localhost:1234/kept/app:v1");
        let id = self.id(source).expect("an image");
        assert!(self.push(source, true).is_none(), "a dry run leaves nothing to name or remove");
        let local = self.push(source, false).expect("an engine's image");
        self.tag(&local, target);
        assert_eq!(self.id(target).as_ref(), Some(&id));
        // Again is no error.
        self.tag(&local, target);

        // Another name that is not ours to take keeps the image.
        self.engine.run(&["tag", source, kept]);
        assert_eq!(self.remove(&local, &[target]).expect("removed").names, [target, local.reference()]);
        assert_eq!((self.id(target), self.id(source), self.id(kept)), (None, None, Some(id.clone())));
        assert!(self.remove(&local, &[target]).expect("nothing to do").names.is_empty());

        // By its ID: refused while there are more names, and said which.
        let local = self.push(&id[..12], false).expect("an engine's image");
        assert_eq!(local.reference(), &id[..12]);
        self.engine.run(&["tag", kept, source]);
        self.tag(&local, target);
        let error = self.remove(&local, &[target]).expect_err("more names");
        assert_eq!(error.operation(), "remove image");
        let hints = [error.notes(), error.hints()].concat().join("\n");
        assert!(hints.contains(&format!("removed all the same: {target}")), "{hints}");
        assert!(hints.contains(kept) && hints.contains(source), "{hints}");
        assert_eq!((self.id(target), self.id(kept).as_ref()), (None, Some(&id)));
        self.engine.run(&["rmi", kept]);
        assert_eq!(self.remove(&local, &[]).expect("removed").names, [&id[..12]]);
        assert_eq!((self.id(source), self.id(&id)), (None, None));
        assert!(self.remove(&local, &[]).expect("nothing to do").names.is_empty());
    }

    /// A container uses the image, whose only name is `source`, and another image has the name that is pushed to.
    fn an_image_in_use_keeps_the_pushed_name(&self, source: &str, older: &str) {
        let target = "localhost:1234/team/app:in-use";
        let local = self.push(source, false).expect("an engine's image");
        let id = self.id(source).expect("an image");
        self.engine.run(&["create", "--name", "local-names", "--network", "none", source, "/none"]);
        let (kept, why) = self.remove(&local, &[]).expect("no failure").kept.expect("a name");
        assert!(kept == local.reference() && why.message().contains("container"), "{kept}: {why}");
        assert_eq!(self.id(source).as_ref(), Some(&id));

        self.engine.run(&["tag", older, target]);
        let removed = self.remove(&local, &[target]).expect("no failure");
        assert_eq!(
            (removed.names, removed.kept.expect("a name").0.as_str()),
            (vec![local.reference().to_owned()], target)
        );
        assert_eq!((self.id(source), self.id(target).as_ref()), (None, Some(&id)));
        assert!(self.id(older).is_some_and(|older| older != id));

        // Without the container both go, and the other image has lost the name.
        self.engine.run(&["tag", target, source]);
        self.engine.run(&["rm", "local-names"]);
        self.engine.run(&["tag", source, "local-names:spare"]);
        self.engine.run(&["tag", older, target]);
        assert_eq!(self.remove(&local, &[target]).expect("removed").names, [target, local.reference()]);
        assert_eq!((self.id(source), self.id(target)), (None, None));
        self.engine.run(&["tag", "local-names:spare", source]);
        self.engine.run(&["rmi", "local-names:spare"]);
    }
}

#[test]
fn docker() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let desk = Desk::new(stack.engine());
    let source = "local-names:1";
    stack.image(source);
    stack.image(SMALL);
    desk.an_image_in_use_keeps_the_pushed_name(source, SMALL);
    // A neighbour takes the source's name.
    let local = desk.push(source, false).expect("an engine's image");
    stack.engine().run(&["tag", source, "local-names:2"]);
    stack.engine().run(&["tag", SMALL, source]);
    assert!(desk.remove(&local, &[]).expect("nothing to do").names.is_empty());
    assert_eq!(desk.id(source), desk.id(SMALL));
    stack.engine().run(&["tag", "local-names:2", source]);
    stack.engine().run(&["rmi", "local-names:2"]);

    desk.names_come_and_go(source);
}

#[test]
fn podman() {
    let Some(stack) = Stack::signed(&[PARTS, &["podman"]].concat()) else {
        return;
    };
    let engine: &'static Engine = Box::leak(Box::new(Engine::podman(&stack.space, "podman-names")));
    let source = "local-names:3";
    for image in [source, SMALL] {
        engine.podman_command(&["load", "-q", "-i"]).arg(&stack.image(image).archive).run().ok();
    }
    let desk = Desk::new(engine);
    desk.an_image_in_use_keeps_the_pushed_name(source, SMALL);
    desk.names_come_and_go(source);
}

#[test]
fn the_command_names_the_image_only_when_asked_to() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let source = stack.image("tag-local:1");
    stack.create_repository("names/command");
    let names = || stack.engine().run(&["image", "inspect", "--format", "{{join .RepoTags \" \"}}", &source.id]);
    crate::push::push(stack, &source.name, "names/command", &["v1", "v2"]).run().ok();
    assert_eq!(names(), "tag-local:1");
    let push = crate::push::push(stack, &source.id, "names/command", &["v1", "v2"]).arg("--tag-local");
    assert_eq!(push.run().ok().lines().len(), 2);
    assert_eq!(names(), format!("{HOST}/names/command:v1 {HOST}/names/command:v2 tag-local:1"));
    // An archive has no engine to name it in.
    let archive = format!("docker-archive:{}", source.archive.display());
    let refused = crate::push::push(stack, &archive, "names/command", &["v3"]).arg("--tag-local").run();
    refused.exit(2).says(&["--tag-local"]);
}
