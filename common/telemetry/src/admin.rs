//! Who may administer a program over HTTP: read its metrics, explain requests, see plans and ask for them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpResponse, Resource, web};

/// Where a program is administered.
#[derive(Debug, Clone, Default)]
pub struct Admin {
    /// An address of its own. `None`: that of health, which then is the machine's own alone.
    pub apart: Option<SocketAddr>,
    /// What has to be shown for it; without it: nothing, which is for the machine's own addresses.
    pub token: Option<Arc<str>>,
}

impl Admin {
    /// Where nothing else is said: at the address of health, if only this machine reaches it; else on the machine's own address, at the
    /// port after that.
    pub fn beside(http: SocketAddr) -> Self {
        let next = SocketAddr::from(([127, 0, 0, 1], http.port().saturating_add(1)));
        Admin {
            apart: (!http.ip().is_loopback()).then_some(next),
            token: None,
        }
    }

    /// Adds what is for administrators alone to an application.
    pub fn serve(&self, config: &mut web::ServiceConfig, resource: Resource) {
        let token = self.token.clone();
        let guard = move |request: ServiceRequest, next: Next<_>| guarded(token.clone(), request, next);
        config.service(resource.wrap(from_fn(guard)));
    }
}

async fn guarded<B: MessageBody>(
    token: Option<Arc<str>>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    if let Err((status, why)) = admitted(token.as_deref(), &request) {
        let refused = HttpResponse::build(status)
            .content_type("text/plain")
            .body(format!("{why}\n"));
        return Ok(request.into_response(refused).map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}

fn admitted(token: Option<&str>, request: &ServiceRequest) -> Result<(), (StatusCode, &'static str)> {
    let text = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    match token {
        Some(token) => {
            let shown = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
            if !shown.is_some_and(|shown| is_same(shown.trim(), token)) {
                let why = "administration asks for \"Authorization: Bearer TOKEN\", the content of this program's admin_token";
                return Err((StatusCode::UNAUTHORIZED, why));
            }
        }
        // A page in a browser may have a name that leads here: who means this machine says so.
        None if !text(header::HOST).is_none_or(is_this_machine) => {
            let why = "administration without a token is for 127.0.0.1, [::1] and localhost";
            return Err((StatusCode::FORBIDDEN, why));
        }
        None => {}
    }
    if request.method() != Method::GET && is_cross_origin(text(header::ORIGIN), text(header::HOST)) {
        return Err((StatusCode::FORBIDDEN, CROSS_ORIGIN));
    }
    Ok(())
}

/// What a page of another origin is told.
pub const CROSS_ORIGIN: &str = "pages of other origins may not do this";

/// Whether a browser sent this for a page of another origin than the one that it is sent to (RFC 6454).
pub fn is_cross_origin(origin: Option<&str>, host: Option<&str>) -> bool {
    let Some(origin) = origin else { return false };
    let own = origin.split_once("://").map(|(_, own)| own);
    own.is_none() || own != host
}

/// Whether both are the same; takes as long wherever they differ.
fn is_same(shown: &str, token: &str) -> bool {
    let differ = shown
        .bytes()
        .zip(token.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    shown.len() == token.len() && differ == 0
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    // Whoever comes by a literal address came to it.
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_origins_are_told_apart() {
        let host = Some("127.0.0.1:8000");
        assert!(!is_cross_origin(None, host));
        assert!(!is_cross_origin(Some("http://127.0.0.1:8000"), host));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8001", ""] {
            assert!(is_cross_origin(Some(origin), host), "{origin}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_taken_for_it() {
        for host in ["localhost:9000", "127.0.0.1", "[::1]:80", "10.0.0.7:9000"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["evil.example:9000", "", "127.0.0.1.evil.example"] {
            assert!(!is_this_machine(host), "{host}");
        }
        assert!(
            is_same("abc", "abc") && !is_same("abd", "abc") && !is_same("", "abc") && !is_same("abcd", "abc")
        );
    }

    #[test]
    fn administration_is_beside_health_on_this_machine_alone() {
        let at = |text: &str| Admin::beside(text.parse().unwrap()).apart;
        assert_eq!(at("127.0.0.1:8000"), None);
        assert_eq!(at("0.0.0.0:8000"), Some("127.0.0.1:8001".parse().unwrap()));
    }
}
