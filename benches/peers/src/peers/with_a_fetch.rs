//! The peers that leave the request to their user: the Smithy identity cache, and moka.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::identity::{
    Identity, IdentityFuture, ResolveCachedIdentity, ResolveIdentity, SharedIdentityCache,
    SharedIdentityResolver,
};
use aws_smithy_runtime_api::client::runtime_components::{
    RuntimeComponents, RuntimeComponentsBuilder,
};
use aws_smithy_types::config_bag::ConfigBag;
use moka::future::Cache;

use crate::harness::{Setting, Subject};

/// One grant with plain reqwest.
#[derive(Clone, Debug)]
struct Fetch {
    client: reqwest::Client,
    token_url: String,
}

#[derive(serde::Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

impl Fetch {
    fn new(setting: &Setting) -> Self {
        Self { client: reqwest::Client::new(), token_url: setting.token_url.clone() }
    }

    async fn grant(&self) -> reqwest::Result<Granted> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "id"),
            ("client_secret", "secret"),
        ];
        let request = self.client.post(&self.token_url).form(&form);
        request.send().await?.error_for_status()?.json().await
    }
}

/// As each call of an AWS SDK uses it.
pub struct Smithy {
    cache: SharedIdentityCache,
    resolver: SharedIdentityResolver,
    components: RuntimeComponents,
    config: ConfigBag,
}

#[derive(Debug)]
struct Resolver(Fetch);

impl ResolveIdentity for Resolver {
    fn resolve_identity<'a>(
        &'a self,
        _components: &'a RuntimeComponents,
        _config: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let granted = self.0.grant().await?;
            let expires_at = SystemTime::now() + Duration::from_secs(granted.expires_in);
            Ok(Identity::new(granted.access_token, Some(expires_at)))
        })
    }
}

impl Subject for Smithy {
    const NAME: &'static str = "AWS Smithy identity cache";
    const REFRESHED_SOON: u64 = 12;
    type Token = Identity;
    type Error = BoxError;

    async fn new(setting: &Setting) -> Self {
        Self {
            cache: IdentityCache::lazy().build(),
            resolver: SharedIdentityResolver::new(Resolver(Fetch::new(setting))),
            components: RuntimeComponentsBuilder::for_tests()
                .with_time_source(Some(SystemTimeSource::new()))
                .with_sleep_impl(Some(TokioSleep::new()))
                .build()
                .unwrap(),
            config: ConfigBag::base(),
        }
    }

    async fn get(&self) -> Result<Identity, BoxError> {
        let resolver = self.resolver.clone();
        self.cache.resolve_cached_identity(resolver, &self.components, &self.config).await
    }
}

/// `try_get_with` on one key, with a time to live.
pub struct Moka {
    fetch: Fetch,
    cache: Cache<(), Arc<String>>,
}

impl Subject for Moka {
    const NAME: &'static str = "moka";
    type Token = Arc<String>;
    type Error = Arc<reqwest::Error>;

    async fn new(setting: &Setting) -> Self {
        let life = Duration::from_secs(if setting.refreshes { 2 } else { 3_300 });
        let cache = Cache::builder().max_capacity(16).time_to_live(life).build();
        Self { fetch: Fetch::new(setting), cache }
    }

    async fn get(&self) -> Result<Arc<String>, Arc<reqwest::Error>> {
        let fetch = async { Ok(Arc::new(self.fetch.grant().await?.access_token)) };
        self.cache.try_get_with((), fetch).await
    }
}
