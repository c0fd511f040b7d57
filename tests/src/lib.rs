//! What the end-to-end tests and the demo are made of: a host that the real `limiterd` protects, and the network
//! outside of it that sends real packets, in namespaces of their own.
//!
//! In reading order: [`scratch`] is a directory that vanishes with its owner; [`netns`] and [`veth`] are the two hosts
//! and the link between them; [`lab`] puts them together; [`daemon`] and [`cli`] run what is tested, and [`control`]
//! asks it many things in a row; [`frames`] and [`traffic`] send, [`sources`]
//! do so by the hundreds, and [`dice`] vary; [`docs`] has the examples of the
//! documents; [`tcp`] is a client that wants to be served meanwhile; [`witness`] counts, behind the XDP program and with
//! a parser of its own, what got through; [`stranger`] is somebody else's program; [`wait`] waits until something is so;
//! [`mod@effort`] says how much is done, and [`mod@skip`] is for tests that cannot run.
//!
//! Nothing here touches the machine's own network, and nothing is left behind: namespaces live as long as a file
//! descriptor of this process, and directories of processes that were killed are swept by the next one.

pub mod cli;
pub mod control;
pub mod daemon;
pub mod dice;
pub mod docs;
pub mod effort;
pub mod frames;
pub mod lab;
pub mod netns;
pub mod scratch;
pub mod skip;
pub mod sources;
pub mod stranger;
pub mod tcp;
pub mod traffic;
pub mod veth;
pub mod wait;
pub mod witness;

pub use cli::{Answer, Cli};
pub use control::Control;
pub use daemon::{Config, Daemon};
pub use dice::Dice;
pub use effort::effort;
pub use lab::{Lab, in_lab};
pub use netns::Namespace;
pub use scratch::Scratch;
pub use skip::skip;
pub use sources::Sources;
pub use witness::Witness;
