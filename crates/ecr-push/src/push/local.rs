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

    /// Takes away those of `targets` (names) that still mean this image, then what the user asked for: a name, if it
    /// still means this image; an ID, if the engine lets it go. With its last name the engine removes the image. What is
    /// gone already, or means another image now, is left as it is. Never by force. Answers what was removed.
    ///
    /// # Errors
    /// If the engine refuses: a container uses the image, or an image asked for by ID has names left.
    pub async fn remove(&self, targets: &[String]) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut failed = None;
        for target in targets {
            // One name that stays is no reason to leave the others.
            failed = failed.or(self.untag(target, &mut removed).await.err());
        }
        let reference = &self.image.reference;
        let last = if self.image.by_id {
            self.take(&self.image.id, reference, &mut removed).await
        } else {
            self.untag(reference, &mut removed).await
        };
        match failed.or(last.err()) {
            Some(error) if removed.is_empty() => Err(error),
            Some(error) => Err(error.with_hint(format!("removed all the same: {}", removed.join(", ")))),
            None => Ok(removed),
        }
    }

    async fn untag(&self, name: &str, removed: &mut Vec<String>) -> Result<()> {
        match self.engine.inspect(name).await {
            Ok(image) if image.id == self.image.id => self.take(name, name, removed).await,
            // Somebody gave the name to another image.
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(error) => Err(error.prefixed(format!("`{name}` was not removed: "))),
        }
    }

    async fn take(&self, name: &str, shown: &str, removed: &mut Vec<String>) -> Result<()> {
        match self.engine.remove(name).await {
            Ok(true) => removed.push(shown.to_owned()),
            Ok(false) => {}
            Err(error) => return Err(self.left(error, shown).await),
        }
        Ok(())
    }

    /// The engine's refusal, with what is left.
    async fn left(&self, error: Error, shown: &str) -> Error {
        let mut built = Error::new(Side::Source, REMOVE, format!("`{shown}` was not removed: {error}"));
        if let Some(status) = error.status() {
            built = built.with_status(status);
        }
        let names = self.engine.inspect(&self.image.id).await.map(|image| image.names).unwrap_or_default();
        if !names.is_empty() {
            built = built.with_hint(format!("the image still has the names {}", names.join(", ")));
        }
        error.hints().iter().fold(built, Error::with_hint).with_hint(
            "remove the containers that use the image (`docker ps --all` lists them) and its other names, then the image",
        )
    }
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
                // A neighbour moved it.
                ("/v1.41/images/host/app:v2/json", described(OTHER)),
                // Gone between the two calls.
                ("/v1.41/images/host/app:v4/json", described(ID)),
                ("/v1.41/images/app:1", gone()),
                ("/v1.41/images/host/app:v1", gone()),
            ]);
            let local = local(&fake, "app:1").await;
            assert_eq!(local.reference(), "app:1");
            let targets = names(&["host/app:v1", "host/app:v2", "host/app:v3", "host/app:v4"]);
            assert_eq!(local.remove(&targets).await.unwrap(), ["host/app:v1", "app:1"]);
            assert_eq!(changes(&fake), ["host/app:v1", "host/app:v4", "app:1"]);
        }

        #[tokio::test]
        async fn a_source_that_was_moved_or_is_gone_is_left_alone() {
            let fake = Fake::start(&[("/v1.41/images/app:1/json", described(OTHER))]);
            for name in ["app:1", "app:2"] {
                let mut image = local(&fake, "app:1").await;
                image.image.id = ID.to_owned();
                image.image.reference = name.to_owned();
                assert!(image.remove(&[]).await.unwrap().is_empty());
            }
            assert!(changes(&fake).is_empty());
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
            assert_eq!(error.hints()[0], "the image still has the names app:1, kept:1");
            assert_eq!(error.hints().last().unwrap(), "removed all the same: host/app:v1");

            let fake = Fake::start(&[&routes[..2], &[(&by_id, gone())]].concat());
            assert_eq!(local(&fake, "8fb5").await.remove(&[]).await.unwrap(), ["8fb5"]);
            // With its last name gone, the image is gone too.
            let fake = Fake::start(&routes[..1]);
            assert!(local(&fake, "8fb5").await.remove(&[]).await.unwrap().is_empty());
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
            assert_eq!(error.hints().last().unwrap(), "removed all the same: host/app:v2, app:1");
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
