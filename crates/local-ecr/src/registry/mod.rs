//! The registry door: `/v2/`, a proxy in front of the API.

mod blobs;
mod manifests;
mod uploads;

use std::sync::Arc;

use crate::auth::{BadToken, Principal};
use crate::config::MissingRepository;
use crate::engine::Engine;
use crate::error::{Refusal, Result};
use crate::http::{Request, Response, ResponseExt, answer, json};
use crate::store::{Repository, Settings};

/// What a path under `/v2/` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Base,
    Blob { name: String, digest: String },
    Manifest { name: String, reference: String },
    Referrers { name: String, digest: String },
    StartUpload { name: String },
    Tags { name: String },
    Unknown,
    Upload { name: String, id: String },
}

impl Target {
    pub fn parse(path: &str) -> Self {
        let Some(rest) = path.strip_prefix("/v2") else {
            return Self::Unknown;
        };
        let segments: Vec<&str> = rest.trim_start_matches('/').split('/').collect();
        let name = |segments: &[&str]| segments.join("/");
        match segments.as_slice() {
            [""] => Self::Base,
            // From the end, since a name may have any of these words in it.
            [before @ .., "blobs", "uploads"] | [before @ .., "blobs", "uploads", ""] if !before.is_empty() => {
                Self::StartUpload { name: name(before) }
            }
            [before @ .., "blobs", "uploads", id] if !before.is_empty() => {
                Self::Upload { name: name(before), id: (*id).to_owned() }
            }
            [before @ .., "blobs", digest] if !before.is_empty() => {
                Self::Blob { name: name(before), digest: decode(digest) }
            }
            [before @ .., "manifests", reference] if !before.is_empty() => {
                Self::Manifest { name: name(before), reference: decode(reference) }
            }
            [before @ .., "tags", "list"] if !before.is_empty() => Self::Tags { name: name(before) },
            [before @ .., "referrers", digest] if !before.is_empty() => {
                Self::Referrers { name: name(before), digest: decode(digest) }
            }
            _ => Self::Unknown,
        }
    }

    /// The repository it is in.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Unknown => None,
            Self::Blob { name, .. }
            | Self::Manifest { name, .. }
            | Self::Referrers { name, .. }
            | Self::StartUpload { name }
            | Self::Tags { name }
            | Self::Upload { name, .. } => Some(name),
        }
    }

    /// The API operation a request stands for (ecr-facts section 1); empty if there is none.
    pub fn operation(&self, method: &str) -> &'static str {
        match (self, method) {
            (Self::Blob { .. }, "HEAD") => "BatchCheckLayerAvailability",
            (Self::Blob { .. }, "GET") => "GetDownloadUrlForLayer",
            (Self::StartUpload { .. }, "POST") => "InitiateLayerUpload",
            (Self::Upload { .. }, "PATCH") => "UploadLayerPart",
            (Self::Upload { .. }, "PUT") => "CompleteLayerUpload",
            (Self::Manifest { .. }, "GET" | "HEAD") => "BatchGetImage",
            (Self::Manifest { .. }, "PUT") => "PutImage",
            (Self::Manifest { .. }, "DELETE") => "BatchDeleteImage",
            (Self::Tags { .. }, "GET") => "ListImages",
            (Self::Referrers { .. }, "GET") => "ListImageReferrers",
            _ => "",
        }
    }
}

fn decode(text: &str) -> String {
    crate::util::percent_decode(text, false)
}

/// Why there is no answer of the ordinary kind.
pub(crate) enum Failure {
    /// The connection ended, or is to end.
    Cut,
    Refused(Refusal),
    /// A refusal with a form of its own.
    Answered(Box<Response>),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<std::io::Error> for Failure {
    fn from(_: std::io::Error) -> Self {
        Self::Cut
    }
}

type Outcome = std::result::Result<Response, Failure>;

/// Serves a request. `Err` is a connection that ends without an answer.
pub(crate) async fn serve(engine: &Engine, mut request: Request) -> std::io::Result<Response> {
    let outcome = route(engine, &mut request).await;
    let response = match outcome {
        Ok(response) => response,
        Err(Failure::Answered(response)) => *response,
        Err(Failure::Refused(refusal)) => {
            // The client must have sent its body before it can read why that was no use.
            if let Err(error) = request.body.drain().await {
                // There is no answer that the cause could be noted on.
                if let Some(cause) = &refusal.cause {
                    engine.config.notices.internal(format!("{} {}", request.method, request.path), cause);
                }
                return Err(error);
            }
            refuse(&refusal)
        }
        Err(Failure::Cut) => return Err(std::io::Error::other("the connection ended")),
    };
    let response = response.header("docker-distribution-api-version", "registry/2.0");
    // a HEAD has no body to say why in.
    Ok(if request.method == "HEAD" { without_body(response) } else { response })
}

/// The relabelled refusal of the API.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let (status, _) = refusal.registry_answer();
    let response = json(status, "application/json; charset=utf-8", &refusal.registry_body());
    match &refusal.cause {
        None => response,
        Some(cause) => response.caused_by(cause),
    }
}

/// An error of the registry door alone.
fn error(status: u16, code: &str, message: &str) -> Response {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    json(status, "application/json; charset=utf-8", &body)
}

fn without_body(mut response: Response) -> Response {
    if !response.status().is_success() {
        *response.body_mut() = crate::http::full("");
    }
    response
}

async fn route(engine: &Engine, request: &mut Request) -> Outcome {
    let principal = match authenticate(engine, request) {
        Ok(principal) => principal,
        Err(response) => {
            request.body.drain().await?;
            return Err(Failure::Answered(response));
        }
    };
    request.entry.is_from(&principal.arn);
    let target = Target::parse(&request.path);
    let door = Door { engine, principal, operation: target.operation(request.method.as_str()) };
    match (target, request.method.as_str()) {
        (Target::Base, "GET" | "HEAD") => Ok(json(200, "application/json", &serde_json::json!({}))),
        (Target::Blob { name, digest }, "HEAD") => door.head_blob(&name, &digest),
        (Target::Blob { name, digest }, "GET") => door.read_blob(&name, &digest, request),
        (Target::StartUpload { name }, "POST") => door.start_upload(&name, request).await,
        (Target::Upload { name, id }, "PATCH") => door.patch_upload(&name, &id, request).await,
        (Target::Upload { name, id }, "PUT") => door.commit_upload(&name, &id, request).await,
        (Target::Manifest { name, reference }, "GET" | "HEAD") => door.read_manifest(&name, &reference, request),
        (Target::Manifest { name, reference }, "PUT") => door.put_manifest(&name, &reference, request).await,
        (Target::Manifest { name, reference }, "DELETE") => door.delete_manifest(&name, &reference),
        (Target::Tags { name }, "GET") => door.list_tags(&name, request),
        (Target::Referrers { name, digest }, "GET") => door.list_referrers(&name, &digest, request),
        // no call of the API is behind these.
        _ => {
            request.body.drain().await?;
            Ok(answer(404, "404 page not found\n").header("content-type", "text/plain; charset=utf-8"))
        }
    }
}

/// the holder of the password.
fn authenticate(engine: &Engine, request: &Request) -> std::result::Result<Principal, Box<Response>> {
    let challenge = || {
        let host = request.header("host").unwrap_or("localhost");
        let response = answer(401, "Not Authorized\n").header("content-type", "text/plain; charset=utf-8").header(
            "www-authenticate",
            format!("Basic realm=\"{}://{host}/\",service=\"ecr.amazonaws.com\"", engine.scheme()),
        );
        Box::new(response)
    };
    let authorization = request.header("authorization").ok_or_else(challenge)?;
    let (scheme, value) = authorization.split_once(' ').unwrap_or((authorization, ""));
    // there is no token service, so a bearer can be from nowhere.
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(challenge());
    }
    engine.identities.token_holder(value).map_err(|bad| match bad {
        //
        BadToken::Expired => {
            Box::new(error(403, "DENIED", "Your authorization token has expired. Reauthenticate and try again."))
        }
        //
        BadToken::OtherRegion => {
            Box::new(error(403, "DENIED", "Your authorization token is not valid in this region."))
        }
        BadToken::Unknown => challenge(),
    })
}

/// One request of a principal that was let in.
struct Door<'a> {
    engine: &'a Engine,
    principal: Principal,
    operation: &'static str,
}

impl Door<'_> {
    /// The right to act on a repository, which has to exist.
    fn on_repository(&self, name: &str) -> Result<Arc<Repository>> {
        crate::rules::check_name(name)?;
        // Listing referrers is judged as reading an image (ecr-facts section 1).
        let action = if self.operation == "ListImageReferrers" { "BatchGetImage" } else { self.operation };
        self.engine.enter(&self.principal, action, Some(name))?;
        self.engine.repository(name)
    }

    /// the same for the request that starts an upload, at which a missing repository may come to be.
    fn on_pushed_repository(&self, name: &str) -> std::result::Result<Arc<Repository>, Failure> {
        let refusal = match self.on_repository(name) {
            Ok(repository) => return Ok(repository),
            Err(refusal) if refusal.name == "RepositoryNotFoundException" => refusal,
            Err(refusal) => return Err(refusal.into()),
        };
        match self.engine.config.missing_repository {
            MissingRepository::Close => Err(Failure::Cut),
            MissingRepository::NameUnknown => Err(refusal.into()),
            MissingRepository::Create => {
                match self.engine.create_repository(name, Settings::default()) {
                    // Another request may have made it meanwhile.
                    Err(refusal) if refusal.name == "RepositoryAlreadyExistsException" => {
                        Ok(self.engine.repository(name)?)
                    }
                    made => Ok(made?),
                }
            }
        }
    }

    /// The address of something below `/v2/`, absolute, on the host the client came to or the public one.
    fn url(&self, request: &Request, path: &str) -> String {
        let asked = request.header("host").map_or_else(|| self.engine.registry_host(None), str::to_owned);
        let host = self.engine.config.public_host.clone().unwrap_or(asked);
        format!("{}://{host}/v2/{path}", self.engine.scheme())
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn paths_are_read_from_the_end() {
        let name = || "a/blobs/b".to_owned();
        assert_eq!(Target::parse("/v2/"), Target::Base);
        assert_eq!(Target::parse("/v2/a/blobs/b/blobs/uploads/"), Target::StartUpload { name: name() });
        assert_eq!(Target::parse("/v2/a/blobs/b/tags/list"), Target::Tags { name: name() });
        assert_eq!(
            Target::parse("/v2/a/manifests/v%2B1"),
            Target::Manifest { name: "a".into(), reference: "v+1".into() }
        );
        assert_eq!(Target::parse("/v2/blobs/uploads/x"), Target::Unknown);
    }
}
