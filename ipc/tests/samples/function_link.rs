// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages of the function link, each with the name of its golden file.

use ipc::protocol::function_link::{DeviceWindow, FunctionReply, FunctionRequest};

/// Every request of the function link; as for requests.
pub fn requests() -> Vec<(&'static str, FunctionRequest)> {
    let window = DeviceWindow { region: 1, offset: 0x4000, len: 0x2000, file_offset: 0x1000, writable: true };
    let all = vec![
        FunctionRequest::AddWindow(window),
        FunctionRequest::ShowWindows { shown: true },
        FunctionRequest::LowerIntx,
        FunctionRequest::AddVector { index: 5 },
        FunctionRequest::RouteVector { index: 5, event: Some(0x203) },
    ];
    let name = |request: &FunctionRequest| match request {
        FunctionRequest::AddWindow(_) => "function-link-add-window",
        FunctionRequest::ShowWindows { .. } => "function-link-show-windows",
        FunctionRequest::LowerIntx => "function-link-lower-intx",
        FunctionRequest::AddVector { .. } => "function-link-add-vector",
        FunctionRequest::RouteVector { .. } => "function-link-route-vector",
    };
    all.into_iter().map(|request| (name(&request), request)).collect()
}

/// And every reply.
pub fn replies() -> Vec<(&'static str, FunctionReply)> {
    let all = vec![FunctionReply::Done, FunctionReply::Refused("it is not sealed".into())];
    let name = |reply: &FunctionReply| match reply {
        FunctionReply::Done => "function-link-done",
        FunctionReply::Refused(_) => "function-link-refused",
    };
    all.into_iter().map(|reply| (name(&reply), reply)).collect()
}
