//! HTTP plumbing that every vendor needs: clients, limits on replies, retries, cached tokens.

mod client;
mod grant;
mod proxies;
mod public_hosts;
mod reach;
mod reply;
mod retry;
mod retry_after;
mod said;
mod secret;
mod secrets;
mod sign_in;
mod token_cache;

pub use client::{Clients, ClientsError, describe};
pub use grant::Grant;
pub use public_hosts::is_public;
pub use reach::{Unreached, reach, server_time};
pub use reply::{NotJson, Reply, ReplyError, json, looks_like, send, without_bom};
pub use retry::{Failure, GaveUp, Retries, RetryPolicy};
pub use retry_after::retry_after;
pub use said::{ErrorBody, said};
pub use secret::{ReadSecret, SecretError};
pub use secrets::{hold, hold_token};
pub use sign_in::{SignIn, SignedIn};
pub use token_cache::{Token, TokenCache};
