use baton::ledger::Domain;
use baton::transfer::{Export, forge, import};
fn main(){
 let domain = Domain::inherited(1024).unwrap();
 let how = Export::default();
 let (c,_p)=forge::messages(&domain).unwrap(); let mut c=Some(c);
 println!("facts {} ctx rec {} msg {} slotexp", size_of::<baton::context::Facts>(), size_of::<baton::context::Context<baton::record::Record>>(), size_of::<baton::context::Context<baton::message::Message>>());
 println!("userdata {} name {} tickets {} uc {}", size_of::<baton::exit::UserData>(), size_of::<baton::name::Name>(), size_of::<baton::exit::Tickets>(), size_of::<baton::exit::UserContext>());
 let n:usize=std::env::args().nth(1).map_or(1000,|x|x.parse().unwrap());
 let t=std::time::Instant::now();
 for _ in 0..n { let tok=c.take().unwrap().export(&how).unwrap(); c=Some(import(&domain,tok.as_bytes(),None).unwrap()); }
 eprintln!("{:.3} us", t.elapsed().as_secs_f64()*1e6/n as f64);
 let (key,nonce,aad)=([7u8;32],[9u8;24],[1u8;62]); let mut text=vec![0u8;512-36]; let l=text.len()-16;
 let t=std::time::Instant::now();
 for _ in 0..n { let tag=baton::crypto::seal_at_rest(&key,&nonce,&aad,&mut text[..l]).unwrap(); text[l..].copy_from_slice(&tag); baton::crypto::open_at_rest(&key,&nonce,&aad,std::hint::black_box(&mut text)).unwrap(); }
 eprintln!("bare {:.3} us", t.elapsed().as_secs_f64()*1e6/n as f64);
}
