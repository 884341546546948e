//! The faults of the matrix, and what must come of each at each step.

use std::time::Duration;

use local_ecr::{Answer, ConnectionAction, FaultAction, Key};

use crate::sources::Clean;
use crate::steps::Step;

/// What must come of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The image is there, whole.
    Survives,
    /// An error whose sentence or hints have these words, and no tag.
    Refused(&'static str),
}

use Expect::{Refused, Survives};

type Action = Box<dyn Fn(Step, &Clean) -> FaultAction + Send + Sync>;

/// One row.
pub struct Row {
    pub name: String,
    /// How often it comes.
    pub times: usize,
    /// How often the largest blob may be sent again for it.
    pub resends: u64,
    pub budget: Duration,
    pub tls: bool,
    /// What is lost at the last tag of an index belongs to a manifest that is there already: nobody is told.
    pub lost_unseen: bool,
    /// Takes more than half a minute, so that only the long run has it.
    pub slow: bool,
    pub action: Action,
    pub expect: Box<dyn Fn(Step) -> Expect + Send + Sync>,
}

impl Row {
    fn new(name: &str, action: impl Fn(Step, &Clean) -> FaultAction + Send + Sync + 'static) -> Self {
        Self {
            name: name.to_owned(),
            times: 1,
            resends: 0,
            budget: Duration::from_secs(8),
            tls: false,
            lost_unseen: false,
            slow: false,
            action: Box::new(action),
            expect: Box::new(|_| Survives),
        }
    }

    fn always(name: &str, action: FaultAction) -> Self {
        Self::new(name, move |_, _| action.clone())
    }

    fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn resends(self, resends: u64) -> Self {
        Self { resends, ..self }
    }

    fn expect(self, expect: impl Fn(Step) -> Expect + Send + Sync + 'static) -> Self {
        Self { expect: Box::new(expect), ..self }
    }

    /// Never ends, and so has a small budget.
    fn for_good(self) -> Self {
        Self { times: usize::MAX, budget: Duration::from_secs(2), resends: u64::MAX, ..self }
    }

    /// All rows.
    pub fn all() -> Vec<Self> {
        let mut rows = connections();
        rows.extend(answers());
        rows.extend(statuses());
        rows.extend(credentials_and_state());
        rows.extend(for_good());
        rows
    }
}

fn connections() -> Vec<Row> {
    let second = Duration::from_secs(1);
    let pause = |time| FaultAction::Pause { after: 0, time };
    let handshake = |action| FaultAction::FailConnections { count: 2, action };
    vec![
        Row::always("reset", FaultAction::Reset { after: 0 }).resends(1),
        Row::always("reset, three times", FaultAction::Reset { after: 0 }).times(3).resends(3),
        Row::always("closed without an answer", FaultAction::Close).resends(1),
        Row::always("stall that heals", pause(second)),
        Row { slow: true, ..Row::always("stall of 15 s that heals", pause(Duration::from_secs(15))) },
        Row::always("late", FaultAction::Delay(second)),
        Row::always("late answer", FaultAction::DelayAnswer(second)),
        Row::new("slow drip", |_, clean| FaultAction::Drip { per_second: clean.largest.max(2000) }),
        Row { tls: true, ..Row::always("cut, then TLS fails twice", handshake(ConnectionAction::Close { after: 1 })) },
        Row { tls: true, ..Row::always("cut, then no TLS, twice", handshake(ConnectionAction::Garbage)) }.expect(
            |step| {
                match step {
                    // Nobody has ever answered there in TLS: that is a wrong address.
                    Step::Token => Refused("does not speak TLS"),
                    _ => Survives,
                }
            },
        ),
    ]
}

fn answers() -> Vec<Row> {
    let elsewhere = "http://127.0.0.1:9/v2/team/app/blobs/uploads/00000000-0000-0000-0000-000000000000";
    let stale = "/v2/team/app/blobs/uploads/00000000-0000-0000-0000-000000000000";
    let wrong = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    vec![
        Row::always("answer lost", FaultAction::LoseAnswer),
        Row::always("answer in drips", FaultAction::DripAnswer { per_second: 2000 }),
        Row::always("answer cut short", FaultAction::Truncate { after: 0 }),
        Row::always("wrong digest in the answer", FaultAction::header("docker-content-digest", Some(wrong))),
        Row::always("location of an old session", FaultAction::Location(Some(stale.into()))).resends(1),
        Row::always("location on another host", FaultAction::Location(Some(elsewhere.into()))).expect(
            |step| match step {
                Step::Initiate => Refused("wants the bytes at another place"),
                _ => Survives,
            },
        ),
    ]
}

/// Answered in the middle of the body where the step is there.
fn answered(step: Step, answer: &Answer) -> FaultAction {
    if step.is_midway() { FaultAction::EarlyAnswer(answer.clone()) } else { FaultAction::Answer(answer.clone()) }
}

fn statuses() -> Vec<Row> {
    let row = |name: &str, answer: Answer| Row::new(name, move |step, _| answered(step, &answer)).resends(2);
    let throttled = Answer::error(429, "TOOMANYREQUESTS", "Rate exceeded");
    let mut rows: Vec<Row> = [408, 500, 502, 503, 504]
        .into_iter()
        .map(|status| row(&status.to_string(), Answer::status(status)).times(2))
        .collect();
    rows.push(row("429", throttled.clone()).times(2));
    rows.push(row("429, Retry-After: 1", throttled.clone().header("retry-after", "1")).times(2));
    rows.push(row("429, Retry-After: 0", throttled.header("retry-after", "0")).times(2));
    rows.push(row("416", Answer::status(416)).expect(|step| match step {
        // The call for many blobs is answered so, and a HEAD takes its place.
        Step::Check => Survives,
        step if step.is_upload() => Survives,
        _ => Refused("416"),
    }));
    rows
}

fn credentials_and_state() -> Vec<Row> {
    let new_key = Key {
        access_key_id: "AKIANEW".into(),
        secret_access_key: "other-secret".into(),
        user: "arn:aws:iam::123456789012:user/ci".into(),
    };
    vec![
        Row::new("401", |step, _| answered(step, &Answer::status(401))).resends(1).expect(|step| match step {
            // The API knows no such answer.
            Step::Token => Refused("401"),
            _ => Survives,
        }),
        // Whatever is under way at that moment is refused with it.
        Row::always("token expires (403 DENIED)", FaultAction::ExpireTokens).resends(8),
        Row::always("keys are replaced", FaultAction::RotateKeys(vec![new_key])).expect(|step| match step {
            // Asked with the old ones; the registry's password is still good.
            Step::Token | Step::Check => Refused("AWS does not know the access key"),
            _ => Survives,
        }),
        Row::always("session ends", FaultAction::EndSessions).resends(1),
        Row { lost_unseen: true, ..Row::always("largest blob vanishes", FaultAction::ForgetBlobs(1)) }.resends(1),
    ]
}

fn for_good() -> Vec<Row> {
    let denied = |step, _: &Clean| {
        let code = if step == Step::Token { "AccessDeniedException" } else { "DENIED" };
        let text = "User: arn:aws:iam::123456789012:user/ci is not authorized to perform: ecr:This on resource: * because no \
                    identity-based policy allows the ecr:This action";
        answered(step, &Answer::error(403, code, text))
    };
    let down = |step, _: &Clean| answered(step, &Answer::status(503));
    let throttled = |step, _: &Clean| {
        let code = if step == Step::Token { "ThrottlingException" } else { "TOOMANYREQUESTS" };
        answered(step, &Answer::error(429, code, "Rate exceeded"))
    };
    vec![
        Row::new("denied, for good", denied).for_good().resends(u64::MAX).expect(|step| match step {
            // Nobody needs to ask: everything is sent.
            Step::Check => Survives,
            _ => Refused("ecr:This"),
        }),
        Row::new("503, for good", down).for_good().expect(|_| Refused("503")),
        Row::new("429, for good", throttled).for_good().expect(|step| match step {
            // A HEAD has no body to say it in.
            Step::Check => Refused("429 Too Many Requests"),
            _ => Refused("Rate exceeded"),
        }),
        Row::always("reset, for good", FaultAction::Reset { after: 0 })
            .for_good()
            .expect(|_| Refused("`retry_budget`")),
        Row { slow: true, ..Row::always("dead, for good", FaultAction::Stall { after: 0 }) }
            .for_good()
            .expect(|_| Refused("`retry_budget`")),
    ]
}
