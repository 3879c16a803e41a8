//! What an agent is asked and what it answers: HTTP and JSON over a unix socket that only root may open.
//!
//! Owns the words of that API and its client side; who serves it is the agent (`host::control`). Whoever only asks, as the lab
//! and the tools do, needs nothing of the engine.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/host` | [`types::HostStatus`] |
//! | `POST /v1/host/drain`, `/undrain` | `{}` |
//! | `POST /v1/host/doctor` with a [`types::DoctorRequest`] | [`types::DoctorReport`], after some seconds |
//! | `GET /v1/vms` | list of [`types::VmStatus`] |
//! | `POST /v1/vms` with a [`types::StartRequest`] | [`types::VmStatus`] |
//! | `GET /v1/vms/NAME` | [`types::VmStatus`] |
//! | `POST /v1/vms/NAME/protect` with a [`types::ProtectRequest`] | `{}` once the request is accepted |
//! | `POST /v1/vms/NAME/migrate` with a [`migration::MigrateRequest`] | `{}` once the request is accepted |
//! | `POST /v1/vms/NAME/migrate/cancel` | `{}` |
//! | `POST /v1/vms/NAME/unprotect`, `/stop`, `/failover` | `{}` |
//! | `GET /v1/vms/NAME/epochs?since_at_us=T` | list of [`types::EpochRecord`] |
//! | `GET /v1/events?after=N&follow=true` | [`types::EventRecord`]s: a list, or with `follow` one JSON line each, without end |
//! | `GET /metrics` | Prometheus text |
//!
//! Whatever fails is answered by a [`types::ApiError`] as JSON, with the HTTP status of its code.
//!
//! | module | owns |
//! |---|---|
//! | [`client`] | one blocking call per request |
//! | [`types`] | what is asked and answered, but for |
//! | [`migration`] | live migration |
//! | [`repair`] | protecting a VM again after a loss |
//! | [`doctor`] | looking at hosts before they are needed |
//! | [`summary`] | the distribution of what was measured |

#![forbid(unsafe_code)]

pub mod client;
pub mod doctor;
pub mod migration;
pub mod repair;
pub mod summary;
pub mod types;
