//! An engine on another machine: the local ssh program runs `docker system dial-stdio` there, as the docker CLI does.
//!
//! bollard's ssh feature is left aside: it starts a control master per call, accepts unknown host keys, and drops what
//! ssh says on standard error, which is where every reason is.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use url::Host;

use crate::child::{Kind, Variables};

/// How much of ssh's standard error is kept for an error message.
const COMPLAINT_BYTES: usize = 4096;

/// Whom ssh is to call, checked so that nothing in it is taken for an option or for shell text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SshTarget {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    socket: Option<String>,
}

impl SshTarget {
    /// `None` if a part has characters that must not reach ssh or the far shell.
    pub fn new(user: &str, host: &Host<String>, port: Option<u16>, socket: Option<&str>) -> Option<Self> {
        let plain = |text: &str, also: &str| {
            !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
        };
        let host = match host {
            Host::Ipv6(address) => address.to_string(),
            other => other.to_string(),
        };
        let fits = plain(user, "._-@+\\") && plain(&host, "._-:") && socket.is_none_or(|path| plain(path, "/._-+"));
        fits.then(|| Self {
            user: (!user.is_empty()).then(|| user.to_owned()),
            host,
            port,
            socket: socket.map(str::to_owned),
        })
    }

    /// The arguments for ssh. A host key or a password is asked for on the terminal, by ssh, under the user's own rules.
    pub fn arguments(&self, connect_seconds: u64) -> Vec<String> {
        let mut arguments = vec!["-o".to_owned(), format!("ConnectTimeout={connect_seconds}"), "-T".to_owned()];
        if let Some(user) = &self.user {
            arguments.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        arguments.extend(["--".to_owned(), self.host.clone(), "docker".to_owned()]);
        if let Some(socket) = &self.socket {
            arguments.extend(["--host".to_owned(), format!("unix://{socket}")]);
        }
        arguments.extend(["system".to_owned(), "dial-stdio".to_owned()]);
        arguments
    }
}

/// What ssh, or the far docker, wrote on standard error.
#[derive(Clone, Default)]
pub(super) struct Complaint(Arc<Mutex<Vec<u8>>>);

impl Complaint {
    /// The last line said, if any: the reason comes last, after warnings and banners.
    pub fn last_line(&self) -> Option<String> {
        let said = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.to_owned())
    }

    async fn keep(self, mut stderr: ChildStderr) {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            let mut said = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            said.extend_from_slice(&buffer[..count]);
            let surplus = said.len().saturating_sub(COMPLAINT_BYTES);
            said.drain(..surplus);
        }
    }
}

/// The running ssh program; it ends with this value.
pub(super) struct SshStream {
    _child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl SshStream {
    /// Starts `program` (`ssh`) for `target`.
    pub fn start(
        program: &str,
        variables: &Variables,
        target: &SshTarget,
        connect_seconds: u64,
    ) -> io::Result<(Self, Complaint)> {
        let mut child = variables
            .command(Kind::Ssh, program)
            .args(target.arguments(connect_seconds))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run the `{program}` program: {error}")))?;
        let missing = || io::Error::other("ssh was started without its streams");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let complaint = Complaint::default();
        tokio::spawn(complaint.clone().keep(child.stderr.take().ok_or_else(missing)?));
        let stream = Self { _child: child, stdin, stdout };
        Ok((stream, complaint))
    }
}

impl AsyncRead for SshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buf)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
