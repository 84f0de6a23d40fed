//! The scripts do what `script.rs` does: the same random calls on both, and the same answers.
//!
//! A server's clock cannot be moved, so the scripts run inside a script that keeps the time and the ends of
//! keys for them; all else is the server's.

use super::server::{Reply, Server, is_absent};
use crate::store::contract::{Found, Id, LONGEST, Record, Sealed, Taken, Want};
use crate::store::script::{Content, Key};
use crate::store::{BURY, LEAVE, PUT, RENEW, TAKE, micros};
use std::time::Duration;

/// Each call is one list of arguments: what to do, the time, and the script's own.
const AROUND: &str = r"
local store, ends, now = redis, {}, 0
local E, L, R = KEYS[1], KEYS[2], KEYS[3]
local function alive(key)
  if ends[key] and now >= ends[key] then store.call('DEL', key); ends[key] = nil end
end
local function call(do_it, command, key, ...)
  local more = {...}
  if command == 'TIME' then return {string.format('%.0f', math.floor(now / 1000000)), string.format('%.0f', now % 1000000)} end
  if command == 'PUBLISH' then return 0 end
  if command == 'DEL' then
    local gone = 0
    for _, each in ipairs({key, unpack(more)}) do alive(each); ends[each] = nil; gone = gone + store.call('DEL', each) end
    return gone
  end
  alive(key)
  if command == 'PTTL' then
    if store.call('EXISTS', key) == 0 then return -2 end
    return ends[key] and math.floor((ends[key] - now) / 1000) or -1
  end
  if command == 'PEXPIRE' then ends[key] = now + 1000 * more[1]; return 1 end
  if command == 'SET' then ends[key] = more[2] and now + 1000 * more[3] or nil; return store.call('SET', key, more[1]) end
  return do_it(command, key, ...)
end
local redis = {call = function(...) return call(store.call, ...) end, pcall = function(...) return call(store.pcall, ...) end}
local function take(KEYS, ARGV) TAKE end
local function put(KEYS, ARGV) PUT end
local function renew(KEYS, ARGV) RENEW end
local function leave(KEYS, ARGV) LEAVE end
local function bury(KEYS, ARGV) BURY end
local out, at = {}, 1
while at <= #ARGV do
  local what, n = ARGV[at], tonumber(ARGV[at + 2])
  now = tonumber(ARGV[at + 1])
  local args = {}
  for i = 1, n do args[i] = ARGV[at + 2 + i] end
  at = at + 3 + n
  alive(E); alive(L); alive(R)
  if what == 'clear' then store.call('DEL', E, L, R); ends = {}
  elseif what == 'take' then out[#out + 1] = take({E, L, R}, args)
  elseif what == 'put' then out[#out + 1] = put({E, L}, args)
  elseif what == 'renew' then out[#out + 1] = renew({L}, args)
  elseif what == 'leave' then out[#out + 1] = leave({L}, args)
  elseif what == 'bury' then out[#out + 1] = bury({E, L, R}, args)
  else
    local key = ({E, L, R})[tonumber(args[1])]
    store.call('DEL', key); ends[key] = nil
    if what == 'forge' then
      store.call('SET', key, args[2])
      if args[3] ~= '' then ends[key] = tonumber(args[3]) end
    elseif what == 'list' then store.call('RPUSH', key, 'x') end
  end
end
return out
";

/// What happens, as arguments, and what the server is to answer to it.
#[derive(Default)]
struct Story {
    args: Vec<Vec<u8>>,
    expected: Vec<Reply>,
    told: Vec<String>,
}

impl Story {
    fn tell(&mut self, what: &str, now: u64, args: Vec<Vec<u8>>, expected: Option<Reply>) {
        self.args.extend([what.into(), now.to_string().into(), args.len().to_string().into()]);
        if let Some(expected) = expected {
            self.told.push(format!("{what} at {now} {args:02x?}"));
            self.expected.push(expected);
        }
        self.args.extend(args);
    }
}

struct Teller {
    random: fastrand::Rng,
    now: u64,
    content: Content,
    ids: Vec<[u8; 16]>,
    /// When a lease was last taken.
    asked: u64,
}

const START: u64 = 1_700_000_000_000_000;
const SECOND: u64 = 1_000_000;

impl Teller {
    fn some_id(&mut self) -> [u8; 16] {
        if self.ids.is_empty() || self.random.u8(..4) == 0 {
            let id = std::array::from_fn(|_| self.random.u8(..));
            self.ids.push(id);
            return id;
        }
        let from = self.ids.len().saturating_sub(6);
        self.ids[self.random.usize(from..self.ids.len())]
    }

    fn some_time(&mut self) -> u64 {
        let of = |least: u64, most: u64| (least, most);
        let (least, most) = match self.random.u8(..8) {
            0 => of(0, 3),
            1..=3 => of(0, 4 * SECOND),
            4 | 5 => of(SECOND, 60 * SECOND),
            6 => of(micros(LONGEST) - 2, micros(LONGEST) + 2),
            _ => of(0, 2 * micros(LONGEST)),
        };
        self.random.u64(least..=most)
    }

    fn some_entry(&mut self, id: [u8; 16]) -> Vec<u8> {
        let asked = match self.random.u8(..8) {
            0 => self.random.u64(..),
            1 => self.now + self.some_time(),
            2 => self.now.saturating_sub(self.some_time()),
            _ => self.asked,
        };
        let life = if self.random.u8(..20) == 0 { self.random.u64(..) } else { self.some_time() };
        let format = if self.random.u8(..20) == 0 { self.random.u8(..) } else { 1 };
        let tag = self.some_id();
        let id = if self.random.u8(..20) == 0 { self.some_id() } else { id };
        let mut entry = vec![format];
        entry.extend(asked.to_be_bytes());
        entry.extend(life.to_be_bytes());
        entry.extend(tag);
        entry.extend(id);
        match self.random.u8(..30) {
            0 => entry.truncate(self.random.usize(..entry.len())),
            1 => entry.resize(65_535 + self.random.usize(..3), 7),
            _ => entry.resize(entry.len() + self.random.usize(..30), 9),
        }
        entry
    }

    fn some_record(&mut self) -> [u8; 40] {
        let mut record = [b'm'; 40];
        let tag = self.some_id();
        let ends = match self.random.u8(..6) {
            0 => self.random.u64(..),
            1 => self.now.saturating_sub(self.some_time()),
            _ => self.now + self.some_time(),
        };
        record[..16].copy_from_slice(&tag);
        record[16..24].copy_from_slice(&ends.to_be_bytes());
        record
    }

    fn step(&mut self, story: &mut Story) {
        match self.random.u8(..10) {
            0..=3 => {}
            // The clock steps back.
            4 if self.random.u8(..4) == 0 => self.now -= self.random.u64(..20 * SECOND),
            _ => self.now += self.some_time() / if self.random.bool() { 20 } else { 1 },
        }
        match self.random.u8(..12) {
            0..=3 => self.take(story),
            4 | 5 => {
                let id = self.some_id();
                let entry = self.some_entry(id);
                let done = self.content.put(self.now, &Id(id), &Sealed(entry.clone()));
                story.tell("put", self.now, vec![id.to_vec(), entry], Some(number(done)));
            }
            6 => {
                let id = self.some_id();
                let done = self.content.renew(self.now, &Id(id));
                let args = vec![id.to_vec(), b"3000".to_vec()];
                story.tell("renew", self.now, args, Some(number(done)));
            }
            7 => {
                let id = self.some_id();
                let done = self.content.leave(self.now, &Id(id));
                story.tell("leave", self.now, vec![id.to_vec()], Some(number(done)));
            }
            8 | 9 => {
                let record = self.some_record();
                let gone = self.content.bury(self.now, &Record(record));
                let ids = [gone.entry, gone.lease];
                let ids = ids.map(|id| Reply::Bytes(id.map_or(Vec::new(), |id| id.0.to_vec())));
                let args = vec![record.to_vec(), b"news".to_vec(), b"notice".to_vec()];
                story.tell("bury", self.now, args, Some(Reply::List(ids.into())));
            }
            _ => self.forge(story),
        }
    }

    fn take(&mut self, story: &mut Story) {
        let id = self.some_id();
        let lease = (self.random.u8(..4) > 0).then_some(Id(id));
        let seen = (self.random.u8(..4) == 0).then(|| Id(self.some_id()));
        let not: Vec<_> = (0..self.random.usize(..3)).map(|_| self.some_id()).collect();
        let mut life = || if self.random.bool() { 0 } else { self.some_time() };
        let (wanted, buffer) = (life(), life());
        let want = Want {
            lease: lease.as_ref(),
            least_life: Duration::from_micros(wanted),
            buffer: Duration::from_micros(buffer),
            seen: seen.as_ref(),
            not: &not,
        };
        let taken = self.content.take(self.now, &want);
        if taken.found == Found::Leased {
            self.asked = self.now;
        }
        let bytes = |id: Option<Id>| id.map_or(Vec::new(), |id| id.0.to_vec());
        let text = |number: u64| number.to_string().into_bytes();
        let mut args = vec![
            bytes(lease),
            b"3000".to_vec(),
            text(micros(want.least_life)),
            text(micros(want.buffer)),
            bytes(seen),
            text(not.len() as u64),
        ];
        args.extend(not.iter().map(|not| not.to_vec()));
        story.tell("take", self.now, args, Some(answer(taken)));
    }

    /// Somebody who can write to the store does.
    fn forge(&mut self, story: &mut Story) {
        self.content.at(self.now);
        let which = self.random.usize(..3);
        let id = self.some_id();
        let value = match (self.random.u8(..4), which) {
            (0, _) => vec![1; self.random.usize(..700)],
            (_, 0) => self.some_entry(id),
            (_, 1) => id.to_vec(),
            _ => (0..self.random.usize(..18)).flat_map(|_| self.some_record()).collect(),
        };
        let ends = self.random.bool().then(|| self.now + self.some_time());
        let key = match which {
            0 => &mut self.content.entry,
            1 => &mut self.content.lease,
            _ => &mut self.content.revoked,
        };
        let nth = (which + 1).to_string().into_bytes();
        match self.random.u8(..8) {
            0 => {
                *key = None;
                story.tell("remove", self.now, vec![nth], None);
            }
            1 => {
                *key = None;
                story.tell("list", self.now, vec![nth], None);
            }
            _ => {
                *key = Some(Key { value: value.clone(), ends });
                let ends = ends.map_or(String::new(), |ends| ends.to_string()).into_bytes();
                story.tell("forge", self.now, vec![nth, value, ends], None);
            }
        }
    }
}

fn number(done: bool) -> Reply {
    Reply::Number(done.into())
}

fn answer(taken: Taken) -> Reply {
    let (kind, more) = match taken.found {
        Found::Entry(entry) => ('e', entry.0),
        Found::Leased => ('l', Vec::new()),
        Found::Busy(id) => ('b', id.0.to_vec()),
        Found::None => ('n', Vec::new()),
    };
    let at = format!("{} {} {kind}", taken.now.0 / SECOND, taken.now.0 % SECOND);
    let length = u16::try_from(taken.revoked.len()).unwrap().to_be_bytes();
    Reply::Bytes([at.as_bytes(), &length, &taken.revoked, &more].concat())
}

/// `STORE_SEQUENCES=100000` asks for more of them.
#[test]
fn the_scripts_do_what_the_rules_say() {
    if is_absent() {
        return;
    }
    let server = Server::start(&["--lua-time-limit", "60000"]);
    let mut connection = server.connect();
    let around = [("TAKE", TAKE), ("PUT", PUT), ("RENEW", RENEW), ("LEAVE", LEAVE), ("BURY", BURY)]
        .iter()
        .fold(AROUND.to_owned(), |text, (name, body)| {
            text.replacen(&format!("ARGV) {name} end"), &format!("ARGV)\n{body}\nend"), 1)
        });
    let sequences = std::env::var("STORE_SEQUENCES").ok().and_then(|text| text.parse().ok());
    let sequences: u64 = sequences.unwrap_or(5_000);
    let (mut calls, mut kinds) = (0, std::collections::BTreeMap::new());
    for seed in 0..sequences {
        let mut teller = Teller {
            random: fastrand::Rng::with_seed(seed),
            now: START,
            content: Content::default(),
            ids: Vec::new(),
            asked: START,
        };
        let mut story = Story::default();
        story.tell("clear", START, Vec::new(), None);
        for _ in 0..30 {
            teller.step(&mut story);
        }
        let mut args = vec![b"EVAL".to_vec(), around.clone().into(), b"3".to_vec()];
        args.extend(["{n:s}e", "{n:s}l", "{n:s}r"].map(|key| key.as_bytes().to_vec()));
        args.extend(story.args);
        let Reply::List(answers) = connection.call(&args) else {
            panic!("seed {seed}: {:?}", connection.call(&args))
        };
        assert_eq!(answers.len(), story.expected.len(), "seed {seed}");
        for (nth, (answer, expected)) in answers.iter().zip(&story.expected).enumerate() {
            assert_eq!(answer, expected, "seed {seed}, {:#?}", &story.told[..=nth]);
            let kind =
                format!("{} {}", story.told[nth].split(' ').next().unwrap_or(""), shown(answer));
            *kinds.entry(kind).or_insert(0) += 1;
        }
        calls += answers.len();
    }
    println!("{sequences} sequences, {calls} calls: {kinds:?}");
    // A test that never sees one of the answers says nothing of it.
    for kind in [
        "take e",
        "take l",
        "take b",
        "take n",
        "put 0",
        "put 1",
        "renew 0",
        "renew 1",
        "leave 0",
        "leave 1",
        "bury none",
        "bury entry",
        "bury lease",
        "bury both",
    ] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 50), "{kind}: {kinds:?}");
    }
}

fn shown(answer: &Reply) -> String {
    let is_empty = |reply: &Reply| matches!(reply, Reply::Bytes(bytes) if bytes.is_empty());
    match answer {
        Reply::Number(number) => number.to_string(),
        Reply::List(list) if list.len() == 2 => match (is_empty(&list[0]), is_empty(&list[1])) {
            (true, true) => "none".into(),
            (false, true) => "entry".into(),
            (true, false) => "lease".into(),
            (false, false) => "both".into(),
        },
        Reply::Bytes(taken) => match taken.splitn(3, |byte| *byte == b' ').nth(2) {
            Some([kind, ..]) => char::from(*kind).into(),
            _ => "?".into(),
        },
        _ => "?".into(),
    }
}
