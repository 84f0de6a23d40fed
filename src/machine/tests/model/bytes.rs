//! Stories out of bytes, a fuzzer's or those of chance: a byte for each choice.

use super::operations::*;
use super::run::play_or_show;

/// The body of a fuzz target.
pub fn fuzz(data: &[u8]) {
    let (setup, steps) = story(data);
    play_or_show(&setup, &steps);
}

pub fn story(data: &[u8]) -> (Setup, Vec<Step>) {
    Bytes(data).story()
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn story(mut self) -> (Setup, Vec<Step>) {
        let setup = self.setup();
        let mut steps = Vec::new();
        while !self.0.is_empty() {
            let random = f64::from(self.byte()) / 256.0;
            steps.push((random, self.op()));
        }
        (setup, steps)
    }

    /// Zeros when there are no more.
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *byte
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[usize::from(self.byte()) % among.len()]
    }

    fn setup(&mut self) -> Setup {
        let (stale_buffer, expired_buffer) = self.pick(&BUFFERS);
        Setup {
            mode: self.pick(&[Mode::WhileUsed, Mode::OnRequest, Mode::Always]),
            stale_buffer,
            expired_buffer,
            attempts: self.pick(&[1, 2, 3, 4]),
            cooling: self.pick(&COOLING),
            max_held: self.pick(&[100, 1, 2, 3]),
            exchanges_at_once: self.pick(&[64, 1, 2, 3]),
            exchange_capacity: self.pick(&[100, 0, 1, 2]),
            can_exchange: self.byte() != 1,
            can_revoke: self.byte() != 1,
            gated: self.byte() % 4 == 1,
        }
    }

    fn op(&mut self) -> Op {
        match self.byte() % 18 {
            0 => Get { left: self.pick(&LEFT), ip: self.byte() % 3 },
            1 => {
                let (key, reversed) = (self.byte() % 3, self.byte() % 2 == 1);
                Exchange { key, reversed, left: self.pick(&LEFT), ip: self.byte() % 3 }
            }
            2 => Revoke { ip: self.byte() % 3 },
            3 => Leave(self.byte()),
            4 => Use,
            5 => Asked { current: self.pick(&[false, true, true, true]) },
            6 => Invalidate(match self.byte() % 6 {
                0 => Foreign,
                back @ 1..=3 => Back(back),
                _ => Current,
            }),
            7 | 8 => End(self.byte() % 4, New(self.life())),
            9 => End(self.byte() % 4, Again(self.byte() % 3, self.life())),
            10 => End(self.byte() % 4, Fails(self.failure())),
            11 => Pass(self.pick(&PASSES)),
            // Any time up to a minute, in steps that meet no round number.
            12 => Pass(u64::from(self.byte()) * 235),
            13 => {
                let marks =
                    [Deadline, AskAt, UsableUntil, NotBefore, ExchangedHoldAt, ExchangedStaleAt];
                To(self.pick(&marks), self.pick(&[0, -1, 1]))
            }
            14 => Wake,
            15 => Permit(self.byte() % 4, None),
            16 => Permit(
                self.byte() % 4,
                Some(self.pick(&[Server(None), TimedOut, RateLimited(Some(7_000))]))
                    .filter(|_| self.byte() < 128),
            ),
            _ => match self.byte() % 6 {
                0 => Timer,
                1 => Wake,
                2 => Abilities { exchange: self.byte() != 1, revoke: self.byte() < 128 },
                3 => Shutdown,
                _ => Hear(self.byte() % 4, self.pick(&[60, 3_600, 0, 10_000_000])),
            },
        }
    }

    fn life(&mut self) -> Life {
        match self.byte() {
            0 => Millis(0),
            1 => Unsaid,
            2 => Huge,
            3 => Hinted(60_000, u64::from(self.byte()) * 300),
            odd if odd % 2 == 1 => Millis(u64::from(odd) * 77),
            even => Millis(LIVES[usize::from(even / 2) % LIVES.len()]),
        }
    }

    fn failure(&mut self) -> Failure {
        let after = self.pick(&RETRY_AFTER);
        self.pick(&[
            TimedOut,
            Denied,
            CredentialsChanged,
            InvalidGrant,
            InvalidToken,
            SubjectNamed,
            InvalidRequest,
            RateLimited(after),
            Server(after),
            Malformed,
            Expired,
            Transport,
            Panicked,
        ])
    }
}
