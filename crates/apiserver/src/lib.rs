//! The embedded Kubernetes API of the lab: storage, watch, discovery, patch.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = apiserver::Server::open(apiserver::Config::new("/var/lib/lab"))?;
//! let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let url = format!("https://{}", listener.local_addr()?);
//! std::fs::write("kubeconfig", server.kubeconfig(&url))?;
//! server.serve(vec![listener], std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

pub mod admission;
pub mod api;
mod defaults;
mod discovery;
pub mod error;
mod fuzz;
mod http;
pub mod kinds;
mod names;
mod object;
mod openapi;
pub mod patch;
pub mod schema;
pub mod selector;
mod server;
mod store;
mod table;
mod time;
mod tls;
mod types;
mod validate;

pub use self::api::Api;
pub use self::error::ApiError;
pub use self::fuzz::fuzz_body;
pub use self::server::{Config, Server, ServerError};
pub use self::store::Durability;
pub use self::tls::{Pki, PkiError};
