//! The pushed image in the engine it came from: another name for it, or its removal.

use crate::engine::{Engine, EngineImage};
use crate::error::{Error, Result, Side};

const REMOVE: &str = "remove image";

/// The image that was pushed, as the engine had it. Held by its ID: a neighbour may have moved its name meanwhile.
#[derive(Clone, Debug)]
pub struct LocalImage {
    engine: Engine,
    image: EngineImage,
}

impl LocalImage {
    pub(super) fn new(engine: Engine, image: EngineImage) -> Self {
        Self { engine, image }
    }

    /// Its ID.
    pub(super) fn id(&self) -> &str {
        &self.image.id
    }

    /// What the user asked for: a name with its tag, or an ID.
    pub fn reference(&self) -> &str {
        &self.image.reference
    }

    /// Gives the image the local name `HOST[:PORT]/REPOSITORY:TAG`.
    ///
    /// # Errors
    /// If it is no such name, the image is gone, or the engine refuses.
    pub async fn tag(&self, reference: &str) -> Result<()> {
        let (repository, tag) = split(reference)?;
        self.engine.tag(&self.image.id, repository, tag).await
    }

    /// Takes the names in `targets`, under which the image was pushed, and the one that the user asked for away from the engine; an
    /// image asked for by its ID goes as the engine lets it. With its last name the engine removes the image. Never by force.
    ///
    /// A target that means another image, an older build most likely, moves to this image first, as `docker tag` does it: no
    /// name of the registry is left on an image that was not pushed. The source's own name is left where it means another image by now.
    ///
    /// While a container uses the image, it keeps one name: the first target, so that the source's name can go.
    ///
    /// # Errors
    /// If the engine refuses for another reason: an image asked for by ID has other names, say.
    pub async fn remove(&self, targets: &[String]) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut failed = None;
        for target in targets {
            // One name that stays is no reason to leave the others.
            failed = failed.or(self.untag_target(target, &mut removed).await.err());
        }
        let last = if self.image.by_id {
            self.remove_by_id(&mut removed).await
        } else {
            self.untag_source(targets.first(), &mut removed).await
        };
        match failed.or(last.err()) {
            Some(error) if removed.names.is_empty() => Err(error),
            Some(error) => Err(error.with_note(format!("removed all the same: {}", removed.names.join(", ")))),
            None => Ok(removed),
        }
    }

    async fn untag_target(&self, target: &str, removed: &mut Removed) -> Result<()> {
        match self.means(target).await? {
            None => return Ok(()),
            Some(false) => self.tag(target).await.map_err(|error| stays(error, target))?,
            Some(true) => {}
        }
        match self.engine.remove(target).await {
            Err(error) if is_conflict(&error) => removed.keep(target, error),
            done => removed.add(target, done.map_err(|error| stays(error, target))?),
        }
        Ok(())
    }

    async fn untag_source(&self, target: Option<&String>, removed: &mut Removed) -> Result<()> {
        let source = &self.image.reference;
        if self.means(source).await? != Some(true) {
            return Ok(());
        }
        let refusal = match self.engine.remove(source).await {
            Err(error) if is_conflict(&error) => error,
            done => {
                removed.add(source, done.map_err(|error| stays(error, source))?);
                return Ok(());
            }
        };
        // The engine takes no image's last name while a container uses the image. With another name this one goes.
        let Some(target) = target.filter(|target| *target != source) else {
            removed.keep(source, refusal);
            return Ok(());
        };
        self.tag(target).await.map_err(|error| stays(error, source))?;
        removed.keep(target, refusal);
        match self.engine.remove(source).await {
            Err(error) if is_conflict(&error) => removed.keep(source, error),
            done => removed.add(source, done.map_err(|error| stays(error, source))?),
        }
        Ok(())
    }

    async fn remove_by_id(&self, removed: &mut Removed) -> Result<()> {
        let reference = &self.image.reference;
        let refusal = match self.engine.remove(&self.image.id).await {
            Ok(was_there) => {
                removed.add(reference, was_there);
                return Ok(());
            }
            Err(error) => error,
        };
        let names = self.engine.inspect(&self.image.id).await.map(|image| image.names).unwrap_or_default();
        if is_conflict(&refusal) && names.len() < 2 {
            removed.keep(names.first().unwrap_or(reference), refusal);
            return Ok(());
        }
        // Podman calls this an error of its own, not a conflict.
        let error = stays(refusal, reference);
        Err(match names.as_slice() {
            [] => error,
            names => error
                .with_note(format!("the image still has the names {}", names.join(", ")))
                .with_hint("remove its other names first, or ask for it by its name"),
        })
    }

    /// Whether `name` means this image. `None` if it means none.
    async fn means(&self, name: &str) -> Result<Option<bool>> {
        match self.engine.inspect(name).await {
            Ok(image) => Ok(Some(image.id == self.image.id)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(stays(error, name)),
        }
    }
}

/// What a removal came to.
#[derive(Debug, Default)]
pub struct Removed {
    /// The names that the engine took away, and the ID of an image that was asked for by it.
    pub names: Vec<String>,
    /// The name that the image keeps, and why: what the engine says, which takes no last name while a container uses the image.
    pub kept: Option<(String, Error)>,
}

impl Removed {
    fn add(&mut self, name: &str, was_there: bool) {
        if was_there {
            self.names.push(name.to_owned());
        }
    }

    fn keep(&mut self, name: &str, why: Error) {
        self.names.retain(|removed| removed != name);
        self.kept = Some((name.to_owned(), why));
    }
}

/// An engine answers so where the image is in use, or has more names than may go at once (docs.docker.com, Engine API).
fn is_conflict(error: &Error) -> bool {
    error.status() == Some(409)
}

fn stays(error: Error, name: &str) -> Error {
    let mut built = Error::new(Side::Source, REMOVE, format!("`{name}` was not removed: {error}"));
    if let Some(status) = error.status() {
        built = built.with_status(status);
    }
    error.hints().iter().fold(built, Error::with_hint)
}

/// `HOST[:PORT]/REPOSITORY` and `TAG`.
fn split(reference: &str) -> Result<(&str, &str)> {
    let last = reference.rfind('/').map_or(0, |slash| slash + 1);
    match reference[last..].split_once(':') {
        Some((component, tag)) if !tag.is_empty() && !tag.contains('@') => {
            Ok((&reference[..last + component.len()], tag))
        }
        _ => Err(Error::new(Side::Source, "tag image", format!("`{reference}` is not a name with a tag"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    mod with_an_engine {
        use super::*;
        use crate::engine::fake::{Answer, Fake};

        const ID: &str = "sha256:8fb58681cae6bc865039548e97ca1f046c9dfe42df7783efdf346c753cae319e";
        const OTHER: &str = "sha256:88e43c0aa2eaec707ea12ef895398ec25ed8eb2b146ec86d28e8e1578f53a319";

        fn described(id: &str) -> Answer {
            Answer::json(200, &format!(r#"{{"Id":"{id}","RepoTags":["app:1","kept:1"],"RootFS":{{"Type":"layers"}}}}"#))
        }

        fn gone() -> Answer {
            Answer::json(200, "[]")
        }

        fn changes(fake: &Fake) -> Vec<String> {
            let asked = fake.asked.lock().unwrap();
            let path =
                |line: &String| Some(line.strip_prefix("DELETE /v1.41/images/")?.split([' ', '?']).next()?.to_owned());
            asked.iter().filter_map(path).collect()
        }

        async fn local(fake: &Fake, name: &str) -> LocalImage {
            let engine = fake.engine().await;
            let image = engine.inspect(name).await.unwrap();
            LocalImage::new(engine, image)
        }

        fn names(names: &[&str]) -> Vec<String> {
            names.iter().map(|&name| name.to_owned()).collect()
        }

        #[tokio::test]
        async fn names_that_still_mean_the_image_are_taken_away() {
            let fake = Fake::start(&[
                ("/v1.41/images/app:1/json", described(ID)),
                ("/v1.41/images/host/app:v1/json", described(ID)),
                // Gone between the two calls.
                ("/v1.41/images/host/app:v4/json", described(ID)),
                ("/v1.41/images/app:1", gone()),
                ("/v1.41/images/host/app:v1", gone()),
            ]);
            let local = local(&fake, "app:1").await;
            assert_eq!(local.reference(), "app:1");
            let targets = names(&["host/app:v1", "host/app:v3", "host/app:v4"]);
            assert_eq!(local.remove(&targets).await.unwrap().names, ["host/app:v1", "app:1"]);
            assert_eq!(changes(&fake), ["host/app:v1", "host/app:v4", "app:1"]);
        }

        #[tokio::test]
        async fn a_source_that_was_moved_or_is_gone_is_left_alone() {
            let fake = Fake::start(&[("/v1.41/images/app:1/json", described(OTHER))]);
            for name in ["app:1", "app:2"] {
                let mut image = local(&fake, "app:1").await;
                image.image.id = ID.to_owned();
                image.image.reference = name.to_owned();
                assert!(image.remove(&[]).await.unwrap().names.is_empty());
            }
            assert!(changes(&fake).is_empty());
        }

        #[tokio::test]
        async fn a_target_on_another_image_is_moved_before_it_goes() {
            let tag = format!("/v1.41/images/{ID}/tag");
            let made = Answer::raw("HTTP/1.1 201 X\r\nContent-Length: 0\r\n\r\n");
            let routes = [
                ("/v1.41/images/app:1/json", described(ID)),
                ("/v1.41/images/host/app:v1/json", described(OTHER)),
                ("/v1.41/images/app:1", gone()),
                ("/v1.41/images/host/app:v1", gone()),
            ];
            let fake = Fake::start(&[&routes[..], &[(&tag, made)]].concat());
            let removed = local(&fake, "app:1").await.remove(&names(&["host/app:v1"])).await.unwrap();
            assert_eq!(removed.names, ["host/app:v1", "app:1"]);
            let asked = fake.asked.lock().unwrap().clone();
            let at = |text: &str| asked.iter().position(|line| line.contains(text)).unwrap();
            assert!(at("/tag?repo=host%2Fapp&tag=v1 ") < at("DELETE /v1.41/images/host/app:v1"), "{asked:?}");
            // One that cannot be moved is not taken from the other image.
            let fake = Fake::start(&routes);
            let error = local(&fake, "app:1").await.remove(&names(&["host/app:v1"])).await.unwrap_err();
            assert!(error.message().starts_with("`host/app:v1` was not removed: "), "{error}");
            assert_eq!(changes(&fake), ["app:1"]);
        }

        #[tokio::test]
        async fn an_image_that_a_container_uses_keeps_the_pushed_name_or_its_only_one() {
            let tag = format!("/v1.41/images/{ID}/tag");
            let made = Answer::raw("HTTP/1.1 201 X\r\nContent-Length: 0\r\n\r\n");
            let in_use = Answer::json(409, r#"{"message":"conflict: container 0a1b is using its referenced image"}"#);
            let fake = Fake::start(&[
                ("/v1.41/images/app:1/json", described(ID)),
                ("/v1.41/images/app:1", in_use.clone()),
                (&tag, made),
            ]);
            // This engine refuses again: the name stays, and that is no failure.
            let removed = local(&fake, "app:1").await.remove(&names(&["host/app:v1"])).await.unwrap();
            assert!(removed.names.is_empty());
            let (name, why) = removed.kept.unwrap();
            assert!(name == "app:1" && why.message().contains("container 0a1b is using"), "{name}: {why}");
            assert_eq!(changes(&fake), ["app:1", "app:1"]);
            // The source is what was pushed.
            let routes =
                [("/v1.41/images/host/app:v1/json", described(ID)), ("/v1.41/images/host/app:v1", in_use.clone())];
            let fake = Fake::start(&routes);
            let removed = local(&fake, "host/app:v1").await.remove(&names(&["host/app:v1"])).await.unwrap();
            assert_eq!(removed.kept.unwrap().0, "host/app:v1");
            // By its ID, with one name.
            let by_id = format!("/v1.41/images/{ID}");
            let json = format!("{by_id}/json");
            let one =
                Answer::json(200, &format!(r#"{{"Id":"{ID}","RepoTags":["app:1"],"RootFS":{{"Type":"layers"}}}}"#));
            let fake = Fake::start(&[(&json, one), (&by_id, in_use)]);
            let removed = local(&fake, ID).await.remove(&[]).await.unwrap();
            assert_eq!((removed.names.len(), removed.kept.unwrap().0.as_str()), (0, "app:1"));
        }

        #[tokio::test]
        async fn an_id_is_removed_and_a_refusal_names_what_is_left() {
            let by_id = format!("/v1.41/images/{ID}");
            let json = format!("{by_id}/json");
            let refusal = Answer::json(409, r#"{"message":"conflict: image is referenced in multiple repositories"}"#);
            let routes = [
                ("/v1.41/images/8fb5/json", described(ID)),
                (&json, described(ID)),
                ("/v1.41/images/host/app:v1/json", described(ID)),
                ("/v1.41/images/host/app:v1", gone()),
            ];
            let fake = Fake::start(&[&routes[..], &[(&by_id, refusal)]].concat());
            let error = local(&fake, "8fb5").await.remove(&names(&["host/app:v1"])).await.unwrap_err();
            assert_eq!((error.operation(), error.status()), ("remove image", Some(409)));
            assert!(error.message().starts_with("`8fb5` was not removed: "), "{error}");
            assert!(error.message().contains("referenced in multiple repositories"), "{error}");
            assert_eq!(error.notes()[0], "the image still has the names app:1, kept:1");
            assert_eq!(error.notes().last().unwrap(), "removed all the same: host/app:v1");

            let fake = Fake::start(&[&routes[..2], &[(&by_id, gone())]].concat());
            assert_eq!(local(&fake, "8fb5").await.remove(&[]).await.unwrap().names, ["8fb5"]);
            // With its last name gone, the image is gone too.
            let fake = Fake::start(&routes[..1]);
            assert!(local(&fake, "8fb5").await.remove(&[]).await.unwrap().names.is_empty());
        }

        #[tokio::test]
        async fn one_name_that_stays_does_not_keep_the_others() {
            let json = format!("/v1.41/images/{ID}/json");
            let fake = Fake::start(&[
                ("/v1.41/images/app:1/json", described(ID)),
                (&json, described(ID)),
                ("/v1.41/images/host/app:v1/json", described(ID)),
                ("/v1.41/images/host/app:v1", Answer::json(500, r#"{"message":"locked"}"#)),
                ("/v1.41/images/host/app:v2/json", described(ID)),
                ("/v1.41/images/host/app:v2", gone()),
                ("/v1.41/images/app:1", gone()),
            ]);
            let targets = names(&["host/app:v1", "host/app:v2"]);
            let error = local(&fake, "app:1").await.remove(&targets).await.unwrap_err();
            assert!(error.message().starts_with("`host/app:v1` was not removed: "), "{error}");
            assert_eq!(error.notes().last().unwrap(), "removed all the same: host/app:v2, app:1");
        }

        #[tokio::test]
        async fn an_image_is_named_by_its_id() {
            let path = format!("/v1.41/images/{ID}/tag");
            let made = Answer::raw("HTTP/1.1 201 X\r\nContent-Length: 0\r\n\r\n");
            let fake = Fake::start(&[("/v1.41/images/app:1/json", described(ID)), (&path, made)]);
            let local = local(&fake, "app:1").await;
            local.tag("host:5000/team/app:v1").await.unwrap();
            let asked = fake.asked.lock().unwrap().pop().unwrap();
            assert!(asked.contains("?repo=host%3A5000%2Fteam%2Fapp&tag=v1 "), "{asked}");
            assert!(local.tag("host:5000/team/app").await.is_err());
        }
    }

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split("host:5000/team/app:v1").unwrap(), ("host:5000/team/app", "v1"));
        assert_eq!(split("app:v1").unwrap(), ("app", "v1"));
        for bad in ["host:5000/app", "app", "app:", "app:v1@sha256:12", ""] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
