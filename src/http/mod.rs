//! HTTP plumbing that every vendor needs: clients, limits on replies, retries, cached tokens.

mod client;
mod public_hosts;
mod retry;
mod retry_after;
mod token_cache;

pub use client::{Clients, ClientsError, Reply, ReplyError, describe, read_reply};
pub use public_hosts::is_public;
pub use retry::{GaveUp, Retries, RetryPolicy};
pub use retry_after::retry_after;
pub use token_cache::{Token, TokenCache};
