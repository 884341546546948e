//! The script, with what is left of each fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::connection::{Dead, draw};
use super::{ConnectionAction, ConnectionFault, ConnectionHit, Fault, Hit, Window};

#[derive(Debug, Default)]
pub(crate) struct Script {
    requests: Vec<OnRequests>,
    connections: Vec<OnConnections>,
    hits: usize,
    /// Connections that were broken.
    broken: Arc<AtomicUsize>,
    dead: Dead,
}

#[derive(Debug)]
struct OnRequests {
    fault: Fault,
    /// When the first request came that matches.
    since: Option<Instant>,
    window: Window,
}

#[derive(Debug)]
struct OnConnections {
    fault: ConnectionFault,
    met: u64,
    window: Arc<Window>,
}

impl Script {
    pub fn add(&mut self, fault: Fault) {
        let window = Window::new(fault.lasting);
        self.requests.push(OnRequests { fault, since: None, window });
    }

    pub fn add_to_connections(&mut self, fault: ConnectionFault) {
        let window = Arc::new(Window::new(fault.lasting));
        self.connections.push(OnConnections { fault, met: 0, window });
    }

    /// Ends all faults. What they have hit stays counted.
    pub fn clear(&mut self) {
        *self =
            Self { hits: self.hits, broken: Arc::clone(&self.broken), dead: Arc::clone(&self.dead), ..Self::default() };
    }

    /// How many requests were hit, and connections broken.
    pub fn hits(&self) -> usize {
        self.hits + self.broken.load(Ordering::Relaxed)
    }

    /// The first fault that hits this request. Each fault that matches counts the request, even if an earlier one
    /// hits it: "the third PUT" must mean the same whatever else is scripted.
    pub fn meet(&mut self, method: &str, path: &str, operation: &str, length: Option<u64>) -> Option<Hit> {
        let mut hit = None;
        for OnRequests { fault, since, window } in &mut self.requests {
            if !fault.matches(method, path, operation, length) {
                continue;
            }
            if since.get_or_insert_with(Instant::now).elapsed() < fault.later {
                continue;
            }
            if is_next(&mut fault.skip, fault.times) && hit.is_none() && window.act().is_some() {
                fault.times -= 1;
                hit = Some(fault.hit(length));
            }
        }
        self.hits += usize::from(hit.is_some());
        hit
    }

    /// The same for a connection that was just accepted.
    pub fn meet_connection(&mut self) -> Option<ConnectionHit> {
        let mut hit = None;
        for OnConnections { fault, met, window } in &mut self.connections {
            if !is_next(&mut fault.skip, fault.times) || hit.is_some() || window.is_over() {
                continue;
            }
            fault.times -= 1;
            let action = match fault.action {
                ConnectionAction::ResetAtRandom { mean, seed } => {
                    ConnectionAction::Reset { after: draw(mean, seed, *met) }
                }
                action => action,
            };
            *met += 1;
            hit =
                Some(ConnectionHit::new(action, Arc::clone(window), Arc::clone(&self.broken), Arc::clone(&self.dead)));
        }
        hit
    }
}

/// Counts what matched a fault, and says whether it is its turn.
fn is_next(skip: &mut usize, times: usize) -> bool {
    if *skip > 0 {
        *skip -= 1;
        return false;
    }
    times > 0
}
