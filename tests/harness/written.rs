//! The responses that the proxy has written to a client, read before the network delivers them.
use std::collections::VecDeque;

use crate::reader::{Asked, Item, Reader, Way};

/// Reads the responses to one client at the time at which they are written.
#[derive(Clone, Debug)]
pub struct Written {
    reader: Reader,
    /// The requests that have no complete response yet.
    asked: VecDeque<Asked>,
    /// Whether a final response has begun and is incomplete.
    is_inside: bool,
}

impl Default for Written {
    fn default() -> Self {
        Self { reader: Reader::new(Way::ToClient), asked: VecDeque::new(), is_inside: false }
    }
}

impl Written {
    /// Adds a request that the client is going to send.
    pub fn expect(&mut self, asked: Asked) {
        self.asked.push_back(asked);
    }

    /// Reads more bytes. Invalid ones are left to the client's own reader, which reports them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
        let mut is_interim = false;
        while let Ok(Some(item)) = self.reader.next(self.asked.front().copied()) {
            match item {
                Item::Head(head) => {
                    is_interim = (100..200).contains(&head.status) && head.status != 101;
                    self.is_inside |= !is_interim;
                }
                Item::Data(_) => {}
                Item::End(_) if is_interim => {}
                Item::End(_) => {
                    self.is_inside = false;
                    self.asked.pop_front();
                }
            }
        }
    }

    /// Returns whether a final response has begun and is not complete, with `waiting` written too.
    pub fn is_inside_with(&self, waiting: &[u8]) -> bool {
        let mut then = self.clone();
        then.push(waiting);
        then.is_inside
    }
}
