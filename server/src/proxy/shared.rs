//! What all sessions of a proxy share.
use std::collections::VecDeque;
use std::time::Duration;

use super::Action;
use crate::buffer::BufferPool;
use crate::config::Config;
use crate::http::chunked::ChunkLimits;
use crate::http::head::HeadLimits;

/// Buffers, limits and the way out for notices.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) head_limits: HeadLimits,
    pub(crate) chunk_limits: ChunkLimits,
    /// No session waits for anything less long than this.
    pub(crate) shortest_timeout: Duration,
    pub(crate) buffers: BufferPool,
    /// Room for encoding one head.
    pub(crate) scratch: Vec<u8>,
    pub(crate) actions: VecDeque<Action>,
    /// Whether no exchange begins any more.
    pub(crate) is_stopping: bool,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        let limits = &config.limits;
        Self {
            head_limits: HeadLimits {
                head_bytes_max: limits.head_bytes_max,
                target_bytes_max: limits.target_bytes_max,
                fields_max: limits.fields_max,
            },
            chunk_limits: ChunkLimits {
                extension_bytes_max: limits.chunk_extension_bytes_max,
                trailer_bytes_max: limits.trailer_bytes_max,
                fields_max: limits.fields_max,
            },
            shortest_timeout: config.timeouts.shortest(),
            config,
            buffers: BufferPool::default(),
            scratch: Vec::new(),
            actions: VecDeque::new(),
            is_stopping: false,
        }
    }
}
