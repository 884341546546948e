//! Faults as a line of text, for the command.

use std::str::FromStr;
use std::time::Duration;

use crate::faults::{Answer, ConnectionAction, ConnectionFault, Fault, FaultAction};

/// A fault written as one line: what it hits, then what happens.
///
/// ```text
/// PUT /blobs/uploads/ skip=1 times=1 reset=7340032
/// PATCH|PUT /blobs/uploads/ times=3 early=503 retry-after=1
/// operation=PutImage times=1 answer=500
/// PATCH part=1/3 stall=0 heal=15s
/// CONNECT times=2 answer=502 message="cannot resolve the host"
/// connection lasting=4s reset=5000000
/// connection reset-at-random=20000000 seed=7
/// ```
///
/// A method (or several with `|`) and a piece of the path come first, both optional; `connection` instead of them means
/// connections in the order they are accepted. Conditions: `operation=NAME`, `min-length=BYTES`, `part=N/M`, `skip=N`,
/// `times=N`, `later=TIME`, `lasting=TIME`. One action: `answer=STATUS`, `early=STATUS`, `close`, `delay=TIME`,
/// `delay-answer=TIME`, `drip=BYTES`, `drip-answer=BYTES` (a second), `location=URL` (or nothing), `lose-answer`,
/// `reset=BYTES`, `stall=BYTES`, `truncate=BYTES`, `end-sessions`, `expire-tokens`, `forget-blobs=N`, `hide-tag=TIME`,
/// `move-tag=TAG:TO`, or one or more `header=NAME:VALUE` (`header=NAME:` leaves it out); for connections `close=BYTES`, `garbage`, `reset=BYTES`,
/// `reset-at-random=BYTES` with `seed=N`, `stall=BYTES`. To an answer belong `code=`, `message=`, `retry-after=SECONDS` and
/// `header=`; to a stall of requests `heal=TIME`. Bytes are whole numbers, times are `250ms`, `15s` or `2m`, and words with
/// blanks stand in double quotes.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Of connections.
    Connection(ConnectionFault),
    /// Of requests.
    Request(Fault),
}

impl FromStr for Rule {
    type Err = String;

    /// The error is one sentence that says which word is wrong.
    fn from_str(text: &str) -> Result<Self, String> {
        let words = words(text)?;
        let plain = words.iter().take_while(|word| !is_setting(word)).count();
        let (subject, settings) = words.split_at(plain);
        let mut settings = Settings::of(settings)?;
        let rule = match subject {
            [only] if only == "connection" => Self::Connection(connection(&mut settings)?),
            _ => Self::Request(request(subject, &mut settings)?),
        };
        settings.finish()?;
        Ok(rule)
    }
}

/// The actions that are one word.
const FLAGS: [&str; 5] = ["close", "end-sessions", "expire-tokens", "garbage", "lose-answer"];

fn is_setting(word: &str) -> bool {
    FLAGS.contains(&word) || word.split_once('=').is_some_and(|(key, _)| is_key(key))
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// Splits at blanks outside of double quotes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for character in text.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            blank if blank.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}

/// What is left to be used of `key=value` and of flags.
struct Settings(Vec<(String, Option<String>)>);

impl Settings {
    fn of(words: &[String]) -> Result<Self, String> {
        let setting = |word: &String| match word.split_once('=') {
            _ if FLAGS.contains(&word.as_str()) => Ok((word.clone(), None)),
            Some((key, value)) if is_key(key) => Ok((key.to_owned(), Some(value.to_owned()))),
            _ => Err(format!("'{word}' is out of place: after the method and the path come settings such as times=1")),
        };
        words.iter().map(setting).collect::<Result<_, _>>().map(Self)
    }

    fn flag(&mut self, key: &str) -> bool {
        let found = self.0.iter().position(|(found, value)| found == key && value.is_none());
        found.map(|at| self.0.remove(at)).is_some()
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(found, value)| found == key && value.is_some())?;
        self.0.remove(at).1
    }

    fn number<N: FromStr>(&mut self, key: &str) -> Result<Option<N>, String> {
        let parse = |text: String| text.parse().map_err(|_| format!("{key}={text} is not a whole number"));
        self.text(key).map(parse).transpose()
    }

    fn time(&mut self, key: &str) -> Result<Option<Duration>, String> {
        let parse =
            |text: String| time(&text).ok_or_else(|| format!("{key}={text} is not a time such as 250ms, 15s or 2m"));
        self.text(key).map(parse).transpose()
    }

    fn status(&mut self, key: &str) -> Result<Option<u16>, String> {
        match self.number::<u16>(key)? {
            Some(status) if !(200..=599).contains(&status) => {
                Err(format!("{key}={status} is not a status between 200 and 599"))
            }
            status => Ok(status),
        }
    }

    /// All headers; one without a value is to be left out.
    fn headers(&mut self) -> Result<Vec<(String, Option<String>)>, String> {
        let mut headers = Vec::new();
        while let Some(text) = self.text("header") {
            let (name, value) = text.split_once(':').unwrap_or_default();
            let value = value.trim();
            if name.parse::<hyper::header::HeaderName>().is_err()
                || hyper::header::HeaderValue::from_str(value).is_err()
            {
                return Err(format!("header={text} is not NAME:VALUE"));
            }
            headers.push((name.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())));
        }
        Ok(headers)
    }

    fn finish(self) -> Result<(), String> {
        let Some((key, value)) = self.0.into_iter().next() else { return Ok(()) };
        let word = value.map_or_else(|| key.clone(), |value| format!("{key}={value}"));
        Err(format!("'{word}' is too much: a rule has one action, what belongs to it, and each word once"))
    }
}

fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    }
}

fn connection(settings: &mut Settings) -> Result<ConnectionFault, String> {
    let action = if let Some(after) = settings.number("close")? {
        ConnectionAction::Close { after }
    } else if settings.flag("garbage") {
        ConnectionAction::Garbage
    } else if let Some(after) = settings.number("reset")? {
        ConnectionAction::Reset { after }
    } else if let Some(mean) = settings.number("reset-at-random")? {
        ConnectionAction::ResetAtRandom { mean, seed: settings.number("seed")?.unwrap_or(0) }
    } else if let Some(after) = settings.number("stall")? {
        ConnectionAction::Stall { after }
    } else {
        return Err("nothing happens: one of close=BYTES, garbage, reset=BYTES, reset-at-random=BYTES or stall=BYTES \
                    must say what does"
            .to_owned());
    };
    let mut fault = ConnectionFault::new(action);
    fault.skip = settings.number("skip")?.unwrap_or(fault.skip);
    fault.times = settings.number("times")?.unwrap_or(fault.times);
    fault.lasting = settings.time("lasting")?.unwrap_or(fault.lasting);
    Ok(fault)
}

fn request(subject: &[String], settings: &mut Settings) -> Result<Fault, String> {
    let is_method = |word: &String| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'|');
    let (method, path) = match subject {
        [] => (None, None),
        [method] if is_method(method) => (Some(method), None),
        [path] => (None, Some(path)),
        [method, path] if is_method(method) => (Some(method), Some(path)),
        [method, _] => return Err(format!("'{method}' is not a method such as PUT or PATCH|PUT")),
        [_, _, word, ..] => {
            return Err(format!(
                "'{word}' is out of place: after the method and the path come settings such as times=1"
            ));
        }
    };
    let mut fault = Fault::new(action(settings)?);
    fault.method = method.cloned();
    fault.path = path.cloned();
    fault.operation = settings.text("operation");
    fault.min_length = settings.number("min-length")?.unwrap_or(fault.min_length);
    fault.part = settings.text("part").map(|text| part(&text)).transpose()?;
    fault.skip = settings.number("skip")?.unwrap_or(fault.skip);
    fault.times = settings.number("times")?.unwrap_or(fault.times);
    fault.later = settings.time("later")?.unwrap_or(fault.later);
    fault.lasting = settings.time("lasting")?.unwrap_or(fault.lasting);
    Ok(fault)
}

fn part(text: &str) -> Result<(u64, u64), String> {
    let numbers = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    let is_part = |&(part, of): &(u64, u64)| part <= of && of > 0;
    numbers.filter(is_part).ok_or_else(|| format!("part={text} is not a part such as 1/3"))
}

fn action(settings: &mut Settings) -> Result<FaultAction, String> {
    Ok(if let Some(status) = settings.status("answer")? {
        FaultAction::Answer(answer(status, settings)?)
    } else if let Some(status) = settings.status("early")? {
        FaultAction::EarlyAnswer(answer(status, settings)?)
    } else if settings.flag("close") {
        FaultAction::Close
    } else if let Some(time) = settings.time("delay")? {
        FaultAction::Delay(time)
    } else if let Some(time) = settings.time("delay-answer")? {
        FaultAction::DelayAnswer(time)
    } else if let Some(per_second) = settings.number("drip")? {
        FaultAction::Drip { per_second }
    } else if let Some(per_second) = settings.number("drip-answer")? {
        FaultAction::DripAnswer { per_second }
    } else if let Some(location) = settings.text("location") {
        FaultAction::Location(Some(location).filter(|location| !location.is_empty()))
    } else if settings.flag("lose-answer") {
        FaultAction::LoseAnswer
    } else if let Some(after) = settings.number("reset")? {
        FaultAction::Reset { after }
    } else if let Some(after) = settings.number("stall")? {
        match settings.time("heal")? {
            Some(time) => FaultAction::Pause { after, time },
            None => FaultAction::Stall { after },
        }
    } else if let Some(after) = settings.number("truncate")? {
        FaultAction::Truncate { after }
    } else if settings.flag("end-sessions") {
        FaultAction::EndSessions
    } else if settings.flag("expire-tokens") {
        FaultAction::ExpireTokens
    } else if let Some(count) = settings.number("forget-blobs")? {
        FaultAction::ForgetBlobs(count)
    } else if let Some(time) = settings.time("hide-tag")? {
        FaultAction::HideTag(time)
    } else if let Some(text) = settings.text("move-tag") {
        match text.split_once(':') {
            Some((tag, to)) if !tag.is_empty() && !to.is_empty() => {
                FaultAction::MoveTag { tag: tag.to_owned(), to: to.to_owned() }
            }
            _ => return Err(format!("move-tag={text} is not TAG:TO, where TO is another tag or a digest")),
        }
    } else {
        let headers = settings.headers()?;
        if headers.is_empty() {
            return Err("nothing happens: an action such as answer=503, reset=BYTES or stall=BYTES must say what does"
                .to_owned());
        }
        FaultAction::Headers(headers)
    })
}

fn answer(status: u16, settings: &mut Settings) -> Result<Answer, String> {
    let mut answer = Answer::status(status);
    answer.code = settings.text("code");
    answer.message = settings.text("message").unwrap_or_default();
    if let Some(seconds) = settings.number::<u64>("retry-after")? {
        answer = answer.header("Retry-After", &seconds.to_string());
    }
    let headers = settings.headers()?.into_iter();
    answer.headers.extend(headers.map(|(name, value)| (name, value.unwrap_or_default())));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Fault {
        match text.parse() {
            Ok(Rule::Request(fault)) => fault,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_rule_says_what_it_hits_and_what_happens() {
        let fault = request("PUT /blobs/uploads/ skip=1 times=1 reset=7340032");
        assert_eq!((fault.method.as_deref(), fault.path.as_deref()), (Some("PUT"), Some("/blobs/uploads/")));
        assert_eq!((fault.skip, fault.times), (1, 1));
        assert!(matches!(fault.action, FaultAction::Reset { after: 7_340_032 }));

        let fault = request(
            "operation=PutImage min-length=9 part=2/3 later=1s lasting=250ms early=429 retry-after=3 \
                             code=TOOMANYREQUESTS message=\"slow down\" header=X-A:b",
        );
        assert_eq!((fault.method, fault.path, fault.operation.as_deref()), (None, None, Some("PutImage")));
        assert_eq!((fault.min_length, fault.part), (9, Some((2, 3))));
        assert_eq!((fault.later, fault.lasting), (Duration::from_secs(1), Duration::from_millis(250)));
        let wanted = Answer::error(429, "TOOMANYREQUESTS", "slow down").header("Retry-After", "3").header("X-A", "b");
        assert!(matches!(fault.action, FaultAction::EarlyAnswer(answer) if answer == wanted));

        let FaultAction::Headers(headers) =
            request("/manifests/ header=Docker-Content-Digest:sha256:00 header=Range:").action
        else {
            panic!("no headers");
        };
        let digest = ("Docker-Content-Digest".to_owned(), Some("sha256:00".to_owned()));
        assert_eq!(headers, [digest, ("Range".to_owned(), None)]);
    }

    #[test]
    fn every_action_has_its_words() {
        for (text, shown) in [
            ("answer=503", "Answer("),
            ("close", "Close"),
            ("delay=1s", "Delay(1s)"),
            ("delay-answer=2m", "DelayAnswer(120s)"),
            ("drip=1", "Drip { per_second: 1 }"),
            ("drip-answer=1", "DripAnswer { per_second: 1 }"),
            ("early=503", "EarlyAnswer("),
            ("end-sessions", "EndSessions"),
            ("expire-tokens", "ExpireTokens"),
            ("forget-blobs=2", "ForgetBlobs(2)"),
            ("hide-tag=250ms", "HideTag(250ms)"),
            ("move-tag=live:sha256:00", "MoveTag { tag: \"live\", to: \"sha256:00\" }"),
            ("header=a:b", "Headers("),
            ("location=", "Location(None)"),
            ("location=/x?a=b", "Location(Some(\"/x?a=b\"))"),
            ("lose-answer", "LoseAnswer"),
            ("stall=3 heal=15s", "Pause { after: 3, time: 15s }"),
            ("reset=3", "Reset { after: 3 }"),
            ("stall=3", "Stall { after: 3 }"),
            ("truncate=3", "Truncate { after: 3 }"),
        ] {
            let action = format!("{:?}", request(text).action);
            assert!(action.starts_with(shown), "{text}: {action}");
        }
        for (text, wanted) in [
            ("connection close=1", ConnectionAction::Close { after: 1 }),
            ("connection garbage", ConnectionAction::Garbage),
            ("connection reset=5000000 lasting=4s", ConnectionAction::Reset { after: 5_000_000 }),
            ("connection reset-at-random=9 seed=7", ConnectionAction::ResetAtRandom { mean: 9, seed: 7 }),
            ("connection stall=1 skip=2 times=3", ConnectionAction::Stall { after: 1 }),
        ] {
            match text.parse() {
                Ok(Rule::Connection(fault)) => assert_eq!(fault.action, wanted),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, sentence) in [
            ("", "nothing happens: an action such as answer=503, reset=BYTES or stall=BYTES must say what does"),
            (
                "PUT times=1",
                "nothing happens: an action such as answer=503, reset=BYTES or stall=BYTES must say what does",
            ),
            ("PUT reset=1MB", "reset=1MB is not a whole number"),
            ("PUT reset=-1", "reset=-1 is not a whole number"),
            ("PUT delay=5", "delay=5 is not a time such as 250ms, 15s or 2m"),
            ("PUT move-tag=live", "move-tag=live is not TAG:TO, where TO is another tag or a digest"),
            ("PUT part=4/3 reset=0", "part=4/3 is not a part such as 1/3"),
            ("PUT part=1/0 reset=0", "part=1/0 is not a part such as 1/3"),
            ("PUT answer=99", "answer=99 is not a status between 200 and 599"),
            ("put /x reset=0", "'put' is not a method such as PUT or PATCH|PUT"),
            ("PUT /x y reset=0", "'y' is out of place: after the method and the path come settings such as times=1"),
            ("PUT reset=0 /x", "'/x' is out of place: after the method and the path come settings such as times=1"),
            (
                "PUT reset=0 stall=0",
                "'stall=0' is too much: a rule has one action, what belongs to it, and each word once",
            ),
            (
                "PUT reset=0 close",
                "'reset=0' is too much: a rule has one action, what belongs to it, and each word once",
            ),
            (
                "PUT reset=0 heal=1s",
                "'heal=1s' is too much: a rule has one action, what belongs to it, and each word once",
            ),
            ("PUT answer=500 message=\"a", "a quote is not closed"),
            ("PUT header=:x", "header=:x is not NAME:VALUE"),
            (
                "connection answer=500",
                "nothing happens: one of close=BYTES, garbage, reset=BYTES, reset-at-random=BYTES or stall=BYTES must say what does",
            ),
            (
                "connection stall=0 heal=1s",
                "'heal=1s' is too much: a rule has one action, what belongs to it, and each word once",
            ),
        ] {
            assert_eq!(text.parse::<Rule>().map(|_| ()).unwrap_err(), sentence, "{text}");
        }
    }
}
