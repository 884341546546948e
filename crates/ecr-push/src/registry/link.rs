//! Whether bytes still move that a connection has taken: the system holds some back, and a slow line takes minutes for those.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::body::Watch;

/// Looks at most so often.
const EVERY: Duration = Duration::from_millis(900);

/// The most that a system holds back for one connection: what Linux, macOS and Windows let a send buffer grow to by themselves.
const HELD_BACK: u64 = 4 << 20;

/// The slowest line, in bytes a second, that is waited for where the system does not say what the other end has acknowledged.
const SLOWEST: u64 = 32_000;

/// A line may become so many times slower than it was before it is taken for dead.
const SLOWER: u64 = 8;

/// The line to the registry, or to the proxy before it. On Linux the kernel says what of each connection the other end has not
/// acknowledged. Elsewhere an upload only knows what its connection took, so it waits as long as the line may need for all that the system
/// may still hold: one that has shown how fast it is, eight times as long as it would need, any other as long as a slow one. One for all uploads of a push: they share the line, and whose turn it is on a slow one is not theirs to say.
pub(super) struct Link {
    /// True if the system says what is acknowledged.
    sees: bool,
    seen: Mutex<Seen>,
}

/// What is known of the line besides an upload's own bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Line {
    /// How long ago it moved last. `None` if that was not seen yet.
    pub(super) idle: Option<Duration>,
    /// How long it may seem to stand still while it passes on what the system holds back.
    pub(super) unseen: Duration,
}

#[derive(Default)]
struct Seen {
    /// Where answers have come from.
    peers: HashSet<SocketAddr>,
    looked: Option<Instant>,
    moved: Option<Instant>,
    /// By the socket's inode.
    held: HashMap<u64, u64>,
    /// The uploads under way, where the system says nothing.
    uploads: Vec<Weak<Watch>>,
    /// The highest speed of an upload, in bytes a second.
    fastest: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self { sees: cfg!(target_os = "linux"), seen: Mutex::default() }
    }
}

impl Link {
    /// Notes whom the registry's answers come from.
    pub(super) fn note_peer(&self, peer: SocketAddr) {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).peers.insert(peer);
    }

    /// Notes an upload that uses the line until it is dropped.
    pub(super) fn note_upload(&self, upload: &Arc<Watch>) {
        if self.sees {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        seen.uploads.retain(|upload| upload.strong_count() > 0);
        seen.uploads.push(Arc::downgrade(upload));
    }

    /// Looks at the line. What is acknowledged is seen only if this is called about once a second.
    pub(super) fn look(&self) -> Line {
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !self.sees {
            let uploads: Vec<_> = seen.uploads.iter().filter_map(Weak::upgrade).collect();
            let held: u64 = uploads.iter().map(|upload| upload.sent().min(HELD_BACK)).sum();
            let idle = uploads.iter().map(|upload| upload.idle()).min();
            // What was taken beyond what can be held back has certainly passed.
            let speeds = uploads.iter().map(|upload| upload.speed_beyond(HELD_BACK));
            seen.fastest = speeds.max().unwrap_or_default().max(seen.fastest);
            return Line { idle, unseen: Duration::from_secs(held / SLOWEST.max(seen.fastest / SLOWER)) };
        }
        if seen.looked.is_none_or(|looked| looked.elapsed() >= EVERY) {
            let held = held(&seen.peers);
            if has_moved(&seen.held, &held) {
                seen.moved = Some(Instant::now());
            }
            seen.held = held;
            seen.looked = Some(Instant::now());
        }
        Line { idle: seen.moved.map(|moved| moved.elapsed()), unseen: Duration::ZERO }
    }
}

/// True if a connection that is in both has fewer bytes waiting. More of them, or others, say nothing of the line.
fn has_moved(before: &HashMap<u64, u64>, now: &HashMap<u64, u64>) -> bool {
    now.iter().any(|(socket, bytes)| before.get(socket).is_some_and(|before| before > bytes))
}

/// The sockets of this process that hold back bytes for one of these. The kernel makes both files when they are read: no disk is waited for.
#[cfg(target_os = "linux")]
fn held(peers: &HashSet<SocketAddr>) -> HashMap<u64, u64> {
    let mut held = HashMap::new();
    for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let table = std::fs::read_to_string(file).unwrap_or_default();
        let waiting = table.lines().filter_map(waiting).filter(|waiting| peers.contains(&waiting.peer));
        held.extend(waiting.map(|waiting| (waiting.socket, waiting.bytes)));
    }
    if held.is_empty() {
        return held;
    }
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let own = entries.filter_map(|entry| socket(std::fs::read_link(entry.path()).ok()?.to_str()?));
    own.filter_map(|socket| Some((socket, *held.get(&socket)?))).collect()
}

#[cfg(not(target_os = "linux"))]
fn held(_: &HashSet<SocketAddr>) -> HashMap<u64, u64> {
    HashMap::new()
}

/// What a socket holds back.
#[cfg(any(test, target_os = "linux"))]
#[derive(Debug, PartialEq)]
struct Waiting {
    peer: SocketAddr,
    /// Its inode.
    socket: u64,
    bytes: u64,
}

/// A line of the kernel's table (proc_net_tcp in its documentation), if that socket holds anything back.
#[cfg(any(test, target_os = "linux"))]
fn waiting(line: &str) -> Option<Waiting> {
    let mut words = line.split_whitespace();
    let (ip, port) = words.nth(2)?.split_once(':')?;
    let (bytes, _) = words.nth(1)?.split_once(':')?;
    let bytes = u64::from_str_radix(bytes, 16).ok().filter(|bytes| *bytes > 0)?;
    let peer = SocketAddr::new(address(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some(Waiting { peer, socket: words.nth(4)?.parse().ok()?, bytes })
}

/// An address as the table has it: in words of 32 bits, each as this machine keeps the bytes of the network.
#[cfg(any(test, target_os = "linux"))]
fn address(hex: &str) -> Option<std::net::IpAddr> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into())
        }
        _ => None,
    }
}

/// The socket that an open file is.
#[cfg(any(test, target_os = "linux"))]
fn socket(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_the_kernels_table_are_read() {
        let line = "   3: 0100007F:B1D8 0200007F:0050 01 0000F8A0:00000000 01:00000014 00000000     0        0 41122 2 0000 20 4 30 10 -1";
        let read = |line: &str| waiting(line).map(|waiting| (waiting.peer.to_string(), waiting.socket, waiting.bytes));
        assert_eq!(read(line), Some(("127.0.0.2:80".to_owned(), 41122, 0xf8a0)));
        let sixth = line.replace("0200007F", "B80D01200000000067452301EFCDAB89");
        assert_eq!(read(&sixth).unwrap().0, "[2001:db8::123:4567:89ab:cdef]:80");
        assert_eq!(read(&line.replace("0000F8A0", "00000000")), None);
        assert_eq!(
            read("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"),
            None
        );
        assert_eq!((socket("socket:[41122]"), socket("/dev/null")), (Some(41122), None));
    }

    #[test]
    fn where_nothing_is_acknowledged_the_line_has_time_for_what_all_uploads_may_hold_back() {
        let link = Link { sees: false, seen: Mutex::default() };
        assert_eq!(link.look(), Line::default());
        let seconds = Duration::from_secs;
        let small = Watch::having_sent(1_000_000, seconds(1));
        link.note_upload(&small);
        assert_eq!(link.look().unseen, seconds(31), "it may all be held back");
        let slow = Watch::having_sent(9_000_000, seconds(300));
        link.note_upload(&slow);
        let line = link.look();
        assert_eq!(line.unseen, seconds(162), "no system holds back 9 MB");
        assert_eq!(line.idle, Some(Duration::ZERO), "what one takes is movement for all");
        let fast = Watch::having_sent(900_000_000, seconds(90));
        link.note_upload(&fast);
        assert_eq!(link.look().unseen, seconds(7));
        drop((slow, fast));
        assert_eq!(link.look().unseen, Duration::ZERO, "the line is still the same");
        drop(small);
        assert_eq!(link.look(), Line::default(), "an upload that ended holds nothing");
        let seeing = Link { sees: true, seen: Mutex::default() };
        seeing.note_upload(&Watch::having_sent(1_000_000, seconds(1)));
        assert_eq!(seeing.look().unseen, Duration::ZERO);
    }

    #[test]
    fn only_bytes_that_are_acknowledged_are_movement() {
        let table = |entries: &[(u64, u64)]| entries.iter().copied().collect::<HashMap<u64, u64>>();
        assert!(has_moved(&table(&[(1, 9), (2, 9)]), &table(&[(1, 9), (2, 8)])));
        for now in [&[(1, 9)][..], &[(1, 10)], &[(2, 1)], &[]] {
            assert!(!has_moved(&table(&[(1, 9)]), &table(now)), "{now:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_peer_does_not_take_is_seen_until_it_does() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let peers = HashSet::from([listener.local_addr().unwrap()]);
        ours.set_nonblocking(true).unwrap();
        let chunk = [0; 1 << 16];
        while ours.write(&chunk).is_ok() {}
        let before = held(&peers);
        assert_eq!(before.len(), 1);
        let mut taken = vec![0; 1 << 16];
        for _ in 0..1000 {
            let _ = peer.read(&mut taken).unwrap();
            if has_moved(&before, &held(&peers)) {
                return;
            }
        }
        panic!("nothing moved: {before:?}, {:?}", held(&peers));
    }
}
