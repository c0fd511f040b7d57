//! All end-to-end tests, one module for each feature. They need root; see [`limiter_tests`].

mod access;
mod api;
mod cli;
mod client;
mod damage;
mod danger;
mod dataplane;
mod disk;
mod durable;
mod growth;
mod harness;
mod hook;
mod hostile;
mod life;
mod load;
mod malformed;
mod metrics;
mod mutations;
mod privileges;
mod rate;
mod remote;
mod scale;
mod security;
mod traffic;
mod unit;
mod verdicts;
