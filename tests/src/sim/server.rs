//! HTTP/1.1 with keep-alive, and connections that can break on purpose.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Sim;
use super::answer::{Answer, Reply};
use super::control;
use super::rest::Asked;
use super::state::clock;

/// Accepts connections until the simulator stops, then drops them all.
pub(super) async fn serve(sim: Sim, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sim.stopped() => return,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(sim.clone(), stream));
            }
            // Out of file handles: the next one may work.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn connection(sim: Sim, stream: TcpStream) {
    // Answers are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let abort = Arc::new(AtomicBool::new(false));
    let stream = Breakable { stream, abort: Arc::clone(&abort) };
    let service = service_fn(move |request| {
        let sim = sim.clone();
        let abort = Arc::clone(&abort);
        async move { respond(&sim, request, &abort).await }
    });
    // A connection that breaks is what the asker deals with.
    let _ =
        http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(sim: &Sim, request: Request<Incoming>, abort: &AtomicBool) -> io::Result<Response<Payload>> {
    if request.uri().path().starts_with("/_sim/") {
        return Ok(response(control::respond(sim, request).await, false));
    }
    let _in_flight = sim.in_flight();
    let authorized = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .is_some_and(|key| key == sim.api_key().as_bytes());
    let asked = Asked {
        is_get: request.method() == Method::GET,
        path: request.uri().path(),
        query: request.uri().query(),
        authorized,
    };
    let plan = sim.state().plan(&asked, clock());
    if !plan.wait.is_zero() {
        tokio::time::sleep(plan.wait).await;
    }
    if let Some(gate) = plan.gate {
        gate.pass().await;
    }
    match plan.answer {
        Answer::Reply(reply) => Ok(response(reply, false)),
        Answer::Silence(length) => {
            tokio::time::sleep(length).await;
            Err(io::ErrorKind::TimedOut.into())
        }
        Answer::Reset => {
            abort.store(true, Ordering::Relaxed);
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Answer::Truncated(reply) => {
            abort.store(true, Ordering::Relaxed);
            Ok(response(reply, true))
        }
    }
}

fn response(reply: Reply, truncated: bool) -> Response<Payload> {
    let length = reply.body.len() as u64;
    let stage = if truncated {
        Stage::Half(reply.body.slice(..reply.body.len() / 2))
    } else {
        Stage::Whole(reply.body)
    };
    let mut response = Response::new(Payload { stage, length });
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    if let Some(seconds) = reply.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A body that may break off in the middle.
struct Payload {
    stage: Stage,
    /// The length that is announced.
    length: u64,
}

enum Stage {
    Whole(Bytes),
    Half(Bytes),
    /// The first half is on its way out.
    Flushing,
    Broken,
    End,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match std::mem::replace(&mut self.stage, Stage::End) {
            Stage::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Stage::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Stage::Half(bytes) => {
                self.stage = Stage::Flushing;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Stage::Flushing => {
                self.stage = Stage::Broken;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Stage::Broken => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            Stage::End => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Whole(bytes) => bytes.is_empty(),
            Stage::End => true,
            Stage::Half(_) | Stage::Flushing | Stage::Broken => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// A connection that ends with a reset once somebody says so.
struct Breakable {
    stream: TcpStream,
    abort: Arc<AtomicBool>,
}

impl Drop for Breakable {
    fn drop(&mut self) {
        if self.abort.load(Ordering::Relaxed) {
            // Closing then sends RST instead of FIN.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.abort.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
