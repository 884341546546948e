//! The API door: AWS JSON 1.1.

mod images;
mod layers;
mod repositories;

use serde_json::{Value, json};

use crate::auth::{Principal, Service};
use crate::engine::Engine;
use crate::error::{Refusal, Result};
use crate::http::{Request, Response, ResponseExt, json as json_answer};
use crate::manifest::is_sha256;
use crate::store::Repository;
use crate::util::{epoch, random_uuid};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::sync::Arc;

const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// The largest part in base64, with room for the members beside it.
const MAX_BODY: usize = 40 << 20;

/// The operation a request names, without its prefix.
pub(crate) fn operation(target: &str) -> &str {
    target.strip_prefix(TARGET).unwrap_or(target)
}

/// Serves a request. `Err` is a connection that ended.
pub(crate) async fn serve(engine: &Engine, mut request: Request) -> std::io::Result<Response> {
    let Some(body) = request.body.collect(MAX_BODY).await? else {
        return Ok(refuse(&Refusal::new("SerializationException", "The request is too large")));
    };
    Ok(match call(engine, &request, &body).await {
        Ok(answer) => json_answer(200, CONTENT_TYPE, &answer).header("x-amzn-RequestId", random_uuid()),
        Err(refusal) => refuse(&refusal),
    })
}

/// an error names itself in the body and in a header.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let response = json_answer(refusal.api_status(), CONTENT_TYPE, &refusal.api_body())
        .header("x-amzn-ErrorType", refusal.name)
        .header("x-amzn-RequestId", random_uuid());
    match &refusal.cause {
        None => response,
        Some(cause) => response.caused_by(cause),
    }
}

async fn call(engine: &Engine, request: &Request, body: &[u8]) -> Result<Value> {
    let principal = engine.identities.signer(request, body, Service::Ecr)?;
    request.entry.is_from(&principal.arn);
    let target = request.header("x-amz-target").unwrap_or_default();
    //
    let unknown = || Refusal::new("UnknownOperationException", "The requested operation is not recognized");
    let operation = target.strip_prefix(TARGET).ok_or_else(unknown)?;
    let input: Value = match body {
        b"" => json!({}),
        body => serde_json::from_slice(body)
            .map_err(|error| Refusal::new("SerializationException", format!("The request is not JSON: {error}")))?,
    };
    if !input.is_object() {
        return Err(Refusal::new("SerializationException", "The request is not a JSON object"));
    }
    let call = Call { engine, principal, operation, input, host: request.header("host") };
    match operation {
        "BatchCheckLayerAvailability" => call.batch_check_layer_availability(),
        "BatchDeleteImage" => call.batch_delete_image(),
        "BatchGetImage" => call.batch_get_image(),
        "CompleteLayerUpload" => call.complete_layer_upload().await,
        "CreateRepository" => call.create_repository(),
        "DeleteRepository" => call.delete_repository(),
        "DescribeImages" => call.describe_images(),
        "DescribeRepositories" => call.describe_repositories(),
        "GetAccountSetting" => call.account_setting(),
        "GetAuthorizationToken" => call.authorization_token(),
        "GetDownloadUrlForLayer" => call.download_url_for_layer(),
        "InitiateLayerUpload" => call.initiate_layer_upload(),
        "ListImages" => call.list_images(),
        "PutImage" => call.put_image(),
        "PutImageTagMutability" => call.put_image_tag_mutability(),
        "UploadLayerPart" => call.upload_layer_part().await,
        _ => Err(unknown()),
    }
}

/// One call of the API.
struct Call<'a> {
    engine: &'a Engine,
    principal: Principal,
    operation: &'a str,
    input: Value,
    /// `HOST[:PORT]` that the client asked for.
    host: Option<&'a str>,
}

impl Call<'_> {
    /// The right to act on a repository, which has to exist.
    fn on_repository(&self) -> Result<Arc<Repository>> {
        let name = self.enter_repository()?;
        self.engine.repository(name)
    }

    /// The right to act on the repository of this name.
    fn enter_repository(&self) -> Result<&str> {
        let name = self.string("repositoryName")?;
        crate::rules::check_name(name)?;
        self.engine.enter(&self.principal, self.operation, Some(name))?;
        let account = &self.engine.config.account;
        match self.input["registryId"].as_str() {
            Some(other) if other != account => Err(Refusal::no_repository(name, other)),
            _ => Ok(name),
        }
    }

    fn string(&self, field: &str) -> Result<&str> {
        self.input[field].as_str().ok_or_else(|| Refusal::parameter(field, "Member must not be null"))
    }

    fn number(&self, field: &str) -> Result<u64> {
        self.input[field].as_u64().ok_or_else(|| Refusal::parameter(field, "Member must not be null"))
    }

    /// a list of one to so many strings.
    fn strings(&self, field: &str, max: usize) -> Result<Vec<String>> {
        let list = self.list(field, max)?;
        list.iter()
            .map(|item| {
                item.as_str().map(str::to_owned).ok_or_else(|| Refusal::parameter(field, "Member must not be null"))
            })
            .collect()
    }

    fn list(&self, field: &str, max: usize) -> Result<&[Value]> {
        let list = self.input[field].as_array().ok_or_else(|| Refusal::parameter(field, "Member must not be null"))?;
        match list.len() {
            0 => Err(Refusal::parameter(field, "Member must have length greater than or equal to 1")),
            length if length > max => {
                Err(Refusal::parameter(field, format_args!("Member must have length less than or equal to {max}")))
            }
            _ => Ok(list),
        }
    }

    /// one page of a list, and the token of the next one.
    fn page<T>(&self, items: Vec<T>) -> Result<(Vec<T>, Option<String>)> {
        let size = match &self.input["maxResults"] {
            Value::Null => 100,
            size => match size.as_u64() {
                Some(size @ 1..=1000) => usize::try_from(size).unwrap_or(1000),
                Some(0) => {
                    return Err(Refusal::parameter("maxResults", "Member must have value greater than or equal to 1"));
                }
                _ => {
                    return Err(Refusal::parameter("maxResults", "Member must have value less than or equal to 1000"));
                }
            },
        };
        let start = match self.input["nextToken"].as_str() {
            None => 0,
            Some(token) => BASE64_STANDARD
                .decode(token)
                .ok()
                .and_then(|text| String::from_utf8(text).ok()?.parse::<usize>().ok())
                .ok_or_else(|| Refusal::parameter("nextToken", "Invalid token"))?,
        };
        let end = start.saturating_add(size);
        let next = (end < items.len()).then(|| BASE64_STANDARD.encode(end.to_string()));
        Ok((items.into_iter().skip(start).take(size).collect(), next))
    }

    /// the registry password, under its user's name.
    fn authorization_token(&self) -> Result<Value> {
        let engine = self.engine;
        engine.enter(&self.principal, self.operation, None)?;
        let (password, expires) = engine.identities.issue_token(self.principal.clone(), engine.config.token_ttl);
        Ok(json!({ "authorizationData": [{
            "authorizationToken": BASE64_STANDARD.encode(format!("AWS:{password}")),
            "expiresAt": epoch(expires),
            "proxyEndpoint": format!("{}://{}", engine.scheme(), engine.registry_host(self.host)),
        }] }))
    }
}

fn with_next(mut answer: Value, next: Option<String>) -> Value {
    if let Some(next) = next {
        answer["nextToken"] = next.into();
    }
    answer
}

fn check_digest(field: &str, digest: &str) -> Result<()> {
    match is_sha256(digest) {
        true => Ok(()),
        false => Err(Refusal::parameter(field, "must satisfy regular expression 'sha256:[0-9a-f]{64}'")),
    }
}
