//! What a fault does to a request.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hyper::header::{CONNECTION, HeaderValue, LOCATION};
use serde_json::json;

use crate::engine::Engine;
use crate::faults::{Answer, ConnectionFault, FaultAction, Hit};
use crate::http::{self, Request, Response, ResponseExt, Stop, answer};
use crate::registry::Target;
use crate::server::Service;
use crate::socket::Ending;
use crate::store::Late;
use crate::sts;
use crate::util::lock;

/// Does what a fault says. `serve` is the ordinary way of the service.
pub(crate) async fn suffer<F, Fut>(
    hit: Hit,
    service: &Service,
    mut request: Request,
    ending: &Ending,
    serve: F,
) -> io::Result<Response>
where
    F: Fn(Request) -> Fut,
    Fut: Future<Output = io::Result<Response>>,
{
    let Hit { action: fault, read_first } = hit;
    match fault {
        FaultAction::Answer(answer) => {
            request.body.drain().await?;
            Ok(render(&answer, &request))
        }
        FaultAction::Close => {
            request.body.skip(read_first).await?;
            Err(io::Error::other("closed by a fault"))
        }
        FaultAction::Delay(time) => {
            tokio::time::sleep(time).await;
            serve(request).await
        }
        FaultAction::DelayAnswer(time) => {
            let response = serve(request).await;
            tokio::time::sleep(time).await;
            response
        }
        FaultAction::Drip { per_second } => {
            request.body.slow_down_to(per_second);
            serve(request).await
        }
        FaultAction::DripAnswer { per_second } => Ok(http::drip(serve(request).await?, per_second)),
        FaultAction::EarlyAnswer(answer) => {
            request.body.skip(read_first).await?;
            Ok(early(&answer, &request, ending))
        }
        FaultAction::FailConnections { count, action } => {
            lock(service.script()).add_to_connections(ConnectionFault::new(action).times(count));
            Err(io::Error::other("closed by a fault"))
        }
        FaultAction::Headers(headers) => Ok(http::replace_headers(serve(request).await?, &headers)),
        FaultAction::HideTag(time) => {
            let target = Target::parse(&request.path);
            let repository = target.name().and_then(|name| service.engine()?.store.find(name));
            let (Some(repository), Target::Manifest { reference, .. }) = (repository, target) else {
                return serve(request).await;
            };
            let before = repository.contents().tags.get(&reference).cloned();
            let response = serve(request).await;
            repository.contents().late.insert(reference, Late { before, until: Instant::now() + time });
            response
        }
        FaultAction::Location(location) => {
            let mut response = serve(request).await?;
            response.headers_mut().remove(LOCATION);
            Ok(match location {
                Some(location) => response.header("location", location),
                None => response,
            })
        }
        FaultAction::LoseAnswer => {
            serve(request).await?;
            Err(io::Error::other("the answer was lost by a fault"))
        }
        FaultAction::Pause { after, time } => stop(request, after, Stop::Pause(time), serve).await,
        FaultAction::Reset { after } => stop(request, after, Stop::Reset(Arc::clone(&ending.reset)), serve).await,
        FaultAction::Stall { after } => {
            let (stalled, mut shutdown) = (Arc::new(AtomicBool::new(false)), request.body.shutdown());
            let outcome = stop(request, after, Stop::Stall(Arc::clone(&stalled)), serve).await;
            // Behind a proxy is a server that gives up sooner. Nothing of that may come through.
            if stalled.load(Ordering::Acquire) {
                let _ = shutdown.wait_for(|stop| *stop).await;
            }
            outcome
        }
        FaultAction::Truncate { after } => Ok(http::truncate(serve(request).await?, after)),
        FaultAction::EndSessions
        | FaultAction::ExpireTokens
        | FaultAction::ForgetBlobs(_)
        | FaultAction::MoveTag { .. }
        | FaultAction::RotateKeys(_) => {
            service.engine().inspect(|engine| change(engine, &fault, &request.path));
            serve(request).await
        }
    }
}

/// An answer before the body was read to its end. The connection ends with it.
pub(crate) fn early(scripted: &Answer, request: &Request, ending: &Ending) -> Response {
    ending.linger.store(true, Ordering::Release);
    let mut response = render(scripted, request);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Changes what the server keeps.
fn change(engine: &Engine, fault: &FaultAction, path: &str) {
    let target = Target::parse(path);
    match fault {
        FaultAction::EndSessions => match target {
            Target::Upload { name, id } => engine.end_uploads(&name, Some(&id)),
            target => engine.end_uploads(target.name().unwrap_or_default(), None),
        },
        FaultAction::ExpireTokens => engine.identities.expire_tokens(),
        FaultAction::ForgetBlobs(count) => {
            let repository = target.name().and_then(|name| engine.store.find(name));
            repository.inspect(|repository| repository.forget_blobs(*count));
        }
        FaultAction::MoveTag { tag, to } => {
            let repository = target.name().and_then(|name| engine.store.find(name));
            repository.inspect(|repository| repository.move_tag(tag, to));
        }
        FaultAction::RotateKeys(keys) => engine.identities.set_keys(keys),
        _ => {}
    }
}

async fn stop<F, Fut>(mut request: Request, after: u64, stop: Stop, serve: F) -> io::Result<Response>
where
    F: Fn(Request) -> Fut,
    Fut: Future<Output = io::Result<Response>>,
{
    request.body.stop_after(after, stop);
    // Without this a request that has no body would pass.
    if after == 0 {
        request.body.stopped().await?;
    }
    serve(request).await
}

fn render(scripted: &Answer, request: &Request) -> Response {
    let Answer { status, code, message, headers } = scripted;
    let response = match code {
        None => answer(*status, message.clone()),
        Some(code) if request.path.starts_with("/v2") => crate::http::json(
            *status,
            "application/json; charset=utf-8",
            &json!({ "errors": [{ "code": code, "message": message }] }),
        ),
        Some(code) if request.headers.contains_key("x-amz-target") => {
            crate::http::json(*status, "application/x-amz-json-1.1", &json!({ "__type": code, "message": message }))
                .header("x-amzn-ErrorType", code)
        }
        Some(code) => sts::refuse(*status, code, message),
    };
    headers.iter().fold(response, |response, (name, value)| response.header(name, value))
}
