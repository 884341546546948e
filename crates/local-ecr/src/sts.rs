//! A stand-in for STS: the Query protocol, as far as a push needs it.

use std::time::Duration;

use crate::auth::{Principal, Service, Session};
use crate::engine::Engine;
use crate::error::Refusal;
use crate::http::{Request, Response, ResponseExt, answer};
use crate::util::{iso8601, query, random_uuid};

const MAX_BODY: usize = 1 << 20;

/// Serves a request. `Err` is a connection that ended.
pub(crate) async fn serve(engine: &Engine, mut request: Request) -> std::io::Result<Response> {
    let Some(body) = request.body.collect(MAX_BODY).await? else {
        return Ok(refuse(413, "RequestEntityTooLarge", "The request is too large"));
    };
    let text = match body.is_empty() {
        true => request.query.clone(),
        false => String::from_utf8_lossy(&body).into_owned(),
    };
    let form = Form(query(&text));
    Ok(match form.value("Action") {
        "AssumeRole" => assume_role(engine, &request, &body, &form),
        "AssumeRoleWithWebIdentity" => assume_role_with_web_identity(engine, &request, &form),
        "GetCallerIdentity" => caller_identity(engine, &request, &body),
        action => refuse(400, "InvalidAction", &format!("Could not find operation {action} for version 2011-06-15")),
    })
}

struct Form(Vec<(String, String)>);

impl Form {
    fn value(&self, key: &str) -> &str {
        self.0.iter().find(|(found, _)| found == key).map_or("", |(_, value)| value)
    }
}

///
fn caller_identity(engine: &Engine, request: &Request, body: &[u8]) -> Response {
    match signer(engine, request, body) {
        Err(refused) => *refused,
        Ok(principal) => result(
            "GetCallerIdentity",
            &format!(
                "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
                escape(&principal.arn),
                escape(&principal.id),
                engine.config.account
            ),
        ),
    }
}

fn assume_role(engine: &Engine, request: &Request, body: &[u8], form: &Form) -> Response {
    let caller = match signer(engine, request, body) {
        Err(refused) => return *refused,
        Ok(principal) => principal,
    };
    if let Some((code, message)) = &engine.config.sts.refuse {
        return refuse(403, code, message);
    }
    let arn = form.value("RoleArn");
    if engine.config.sts.external_id.as_deref().is_some_and(|wanted| wanted != form.value("ExternalId")) {
        let message = format!("User: {} is not authorized to perform: sts:AssumeRole on resource: {arn}", caller.arn);
        return refuse(403, "AccessDenied", &message);
    }
    hand_out("AssumeRole", engine, form, "")
}

/// Not signed: the token of the identity provider is the proof.
fn assume_role_with_web_identity(engine: &Engine, request: &Request, form: &Form) -> Response {
    if let Some((code, message)) = &engine.config.sts.refuse {
        return refuse(403, code, message);
    }
    if form.value("WebIdentityToken").is_empty() {
        return refuse(400, "InvalidIdentityToken", "No OpenIDConnect token was given");
    }
    request.entry.is_from(form.value("RoleArn"));
    let more = "<SubjectFromWebIdentityToken>local-ecr</SubjectFromWebIdentityToken><Provider>local-ecr</Provider>\
                <Audience>sts.amazonaws.com</Audience>";
    hand_out("AssumeRoleWithWebIdentity", engine, form, more)
}

fn hand_out(action: &str, engine: &Engine, form: &Form, more: &str) -> Response {
    let (arn, session_name) = (form.value("RoleArn"), form.value("RoleSessionName"));
    let Some(role) = arn.split_once(":role/").map(|(_, path)| path.rsplit('/').next().unwrap_or(path)) else {
        return refuse(400, "ValidationError", &format!("{arn} is invalid"));
    };
    if session_name.len() < 2 {
        return refuse(400, "ValidationError", "The RoleSessionName has fewer than 2 characters");
    }
    let asked = form.value("DurationSeconds").parse().unwrap_or(3_600_u64).clamp(1, 43_200);
    let ttl = engine.config.sts.credentials_ttl.unwrap_or(Duration::from_secs(asked));
    let principal = Principal::role(&engine.config.account, role, session_name);
    let shown = format!(
        "<AssumedRoleUser><AssumedRoleId>{}</AssumedRoleId><Arn>{}</Arn></AssumedRoleUser>",
        escape(&principal.id),
        escape(&principal.arn)
    );
    let Session { access_key_id, secret_access_key, session_token, expires } =
        engine.identities.session(principal, ttl);
    let credentials = format!(
        "<Credentials><AccessKeyId>{access_key_id}</AccessKeyId><SecretAccessKey>{secret_access_key}</SecretAccessKey>\
         <SessionToken>{session_token}</SessionToken><Expiration>{}</Expiration></Credentials>",
        iso8601(expires)
    );
    result(action, &format!("{shown}{credentials}{more}"))
}

fn signer(engine: &Engine, request: &Request, body: &[u8]) -> Result<Principal, Box<Response>> {
    let named = |refusal: Refusal| {
        // The Query protocol has shorter names for some of them.
        let code = match refusal.name {
            "ExpiredTokenException" => "ExpiredToken",
            "IncompleteSignatureException" => "IncompleteSignature",
            "InvalidSignatureException" => "SignatureDoesNotMatch",
            "MissingAuthenticationTokenException" => "MissingAuthenticationToken",
            "UnrecognizedClientException" => "InvalidClientTokenId",
            other => other,
        };
        Box::new(refuse(if code == "IncompleteSignature" { 400 } else { 403 }, code, &refusal.message))
    };
    let principal = engine.identities.signer(request, body, Service::Sts).map_err(named)?;
    request.entry.is_from(&principal.arn);
    Ok(principal)
}

fn result(action: &str, members: &str) -> Response {
    let body = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>{members}\
         </{action}Result><ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{action}Response>",
        random_uuid()
    );
    answer(200, body).header("content-type", "text/xml")
}

pub(crate) fn refuse(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{}</Code>\
         <Message>{}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        escape(code),
        escape(message),
        random_uuid()
    );
    answer(status, body).header("content-type", "text/xml")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
