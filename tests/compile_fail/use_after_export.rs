//! Export takes the context: whatever comes of it, the old handle is gone.

use baton::context::Context;
use baton::message::Message;
use baton::record::Record;
use baton::transfer::{Export, NotExported};

fn protect_after_export(mut context: Context<Message>) {
    let token = context.export(&Export::default());
    let _ = context.wrap(true, b"late"); //~ E0382 moved value: `context`
    drop(token);
}

fn export_twice(context: Context<Record>) {
    let first = context.export(&Export::default());
    let second = context.export(&Export::default()); //~ E0382 moved value: `context`
    drop((first, second));
}

fn ask_after_delete(context: Context<Message>) {
    let _ = context.delete();
    let _ = context.check(); //~ E0382 moved value: `context`
}

fn failed_export_gives_it_back(context: Context<Message>) -> Option<Context<Message>> {
    match context.export(&Export::default()) {
        Ok(_) => None,
        Err(NotExported { context, .. }) => Some(context),
    }
}

fn main() {
    let _ = (
        protect_after_export,
        export_twice,
        ask_after_delete,
        failed_export_gives_it_back,
    );
}
