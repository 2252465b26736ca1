//! Unpacking gzip: all members, zero padding allowed at the end, nothing else.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The first two bytes of every gzip member.
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads the members of a gzip stream one after the other.
pub(super) struct Gunzip<R: BufRead> {
    state: State<R>,
}

enum State<R: BufRead> {
    Member(Box<GzDecoder<R>>),
    Done,
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            state: State::Member(Box::new(GzDecoder::new(inner))),
        }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let State::Member(decoder) = &mut self.state else {
                return Ok(0);
            };
            let count = decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let State::Member(decoder) = std::mem::replace(&mut self.state, State::Done) else {
                return Ok(0);
            };
            let mut inner = decoder.into_inner();
            if !skip_zeros(&mut inner)? {
                return Ok(0);
            }
            // The decoder itself refuses what is not a member.
            self.state = State::Member(Box::new(GzDecoder::new(inner)));
        }
    }
}

/// Skips zero bytes. Returns false at the end of the input.
fn skip_zeros(inner: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = inner.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let zeros = buffer.iter().take_while(|b| **b == 0).count();
        let all = zeros == buffer.len();
        inner.consume(zeros);
        if !all {
            return Ok(true);
        }
    }
}
