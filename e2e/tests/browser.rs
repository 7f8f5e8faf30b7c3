//! The dashboard, as a team uses it: everything by hand in Chromium; kubectl only says who may do what.
use anyhow::{Context, Result, ensure};
use pilothouse_e2e::{Browser, Cluster, IMAGE, Issuer, cluster};
use std::process::Command;

#[test]
fn a_team_deploys_scales_watches_and_mends_in_a_browser() -> Result<()> {
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).status()?.success(), "the example image was not built");
    let issuer = Issuer::start()?;
    let trusted = Cluster::dir_of("browser").join("authentication.json");
    std::fs::create_dir_all(Cluster::dir_of("browser"))?;
    issuer.configuration(&trusted)?;
    let arguments = ["--authentication-config", &*trusted.to_string_lossy(), "--sign-in-issuer", &issuer.url];
    let cluster = Cluster::start("browser", &arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let browser = Browser::start(&cluster.dir().join("chromium")).await?;
        let outcome = story(&cluster, &browser).await;
        if outcome.is_err() {
            browser.picture("failed").await?;
        }
        browser.close().await?;
        outcome
    })
}

async fn story(cluster: &Cluster, browser: &Browser) -> Result<()> {
    let dashboard = cluster.dashboard()?;
    sign_in_at_the_issuer(cluster, browser, &dashboard).await.context("sign in at an issuer")?;
    sign_in(cluster, browser, &dashboard).await.context("sign in")?;
    make_a_namespace(browser, &dashboard).await.context("make a namespace")?;
    deploy(cluster, browser).await.context("deploy")?;
    scale(cluster, browser).await.context("scale")?;
    roll_out_and_back(browser).await.context("roll out and back")?;
    mend_a_bad_version(browser).await.context("mend a bad version")?;
    follow_a_log(browser).await.context("follow a log")?;
    keep_a_secret(browser, &dashboard).await.context("keep a secret")?;
    delete(browser, &dashboard).await.context("delete")?;
    let unexpected: Vec<_> =
        browser.console_errors().await?.into_iter().filter(|error| !is_expected(error)).collect();
    ensure!(unexpected.is_empty(), "the console tells of {unexpected:#?}");
    Ok(())
}

/// Who is not signed in is told so, and a browser breaks its connections whenever a pod's cable changes the network of
/// this machine: the dashboard connects again.
fn is_expected(error: &str) -> bool {
    (error.contains("/auth/") && error.contains("401")) || error.contains("ERR_NETWORK_CHANGED")
}

/// Ann changes her mind first, and is told what came of it.
async fn sign_in_at_the_issuer(cluster: &Cluster, browser: &Browser, dashboard: &str) -> Result<()> {
    let may_view = ["create", "clusterrolebinding", "ann-views", "--clusterrole=view", "--user=oidc:ann"];
    cluster.kubectl().ok(&may_view)?;
    browser.open(dashboard).await?;
    browser.click("login-issuer").await?;
    browser.click("issuer-cancel").await?;
    browser.shows("Ann went home").await?;
    browser.picture("sign-in").await?;
    browser.click("login-issuer").await?;
    browser.click("issuer-ann").await?;
    browser.reads("signed-in-as", "oidc:ann").await?;
    browser.click("sign-out").await?;
    browser.find("login-submit").await.map(drop)
}

async fn sign_in(cluster: &Cluster, browser: &Browser, dashboard: &str) -> Result<()> {
    browser.open(dashboard).await?;
    browser.fill("login-username", "admin").await?;
    browser.fill("login-password", "wrong").await?;
    browser.click("login-submit").await?;
    browser.shows("user name or password").await?;
    browser.fill("login-password", &cluster.admin_password()?).await?;
    browser.click("login-submit").await?;
    browser.reads("signed-in-as", "admin").await
}

async fn make_a_namespace(browser: &Browser, dashboard: &str) -> Result<()> {
    browser.open(&format!("{dashboard}namespaces")).await?;
    browser.click("ns-open").await?;
    browser.fill("ns-name", "The Harbour").await?;
    browser.click("ns-create").await?;
    browser.shows("only lower-case letters").await?;
    browser.fill("ns-name", "harbour").await?;
    browser.click("ns-create").await?;
    browser.find("row-harbour").await?;
    browser.choose("namespace-picker", "harbour").await
}

async fn deploy(cluster: &Cluster, browser: &Browser) -> Result<()> {
    browser.click("deploy-open").await?;
    browser.click("deploy-submit").await?;
    browser.shows("which image should run?").await?;
    browser.fill("deploy-name", "web").await?;
    browser.fill("deploy-image", IMAGE).await?;
    browser.fill("deploy-replicas", "2").await?;
    browser
        .fill("deploy-command", "sh -c 'trap exit TERM; while true; do echo $GREETING; sleep 1; done'")
        .await?;
    browser.click("deploy-add-port").await?;
    browser.fill("deploy-port-0", "8080").await?;
    browser.click("deploy-add-env").await?;
    browser.fill("deploy-env-name-0", "GREETING").await?;
    browser.fill("deploy-env-value-0", "ahoy").await?;
    browser.fill("deploy-memory-limit", "64Mi").await?;
    browser.reads("deploy-preview", "value: ahoy").await?;
    browser.picture("deploy").await?;
    // Gone if the page were loaded anew.
    browser.script("window.loadedOnce = true").await?;
    browser.click("deploy-submit").await?;
    // The page of the new Deployment, which tells how it comes up.
    browser.shows("2 of 2 available").await?;
    let service = cluster.kubectl().in_namespace("harbour").json(&["get", "service", "web"])?;
    ensure!(service["spec"]["ports"][0]["port"] == 8080, "the Service is {service}");
    Ok(())
}

async fn scale(cluster: &Cluster, browser: &Browser) -> Result<()> {
    browser.fill("scale-value", "3").await?;
    browser.click("scale-apply").await?;
    browser.shows("3 of 3 available").await?;
    ensure!(browser.script("return window.loadedOnce").await? == true, "the page was loaded anew");
    let web = cluster.kubectl().in_namespace("harbour").json(&["get", "deployment", "web"])?;
    ensure!(web["spec"]["replicas"] == 3, "the Deployment is {web}");
    browser
        .eventually("three pods in the list", async || {
            Ok((browser.count("pod-row-").await? == 3).then_some(()))
        })
        .await?;
    browser.picture("dashboard").await
}

async fn roll_out_and_back(browser: &Browser) -> Result<()> {
    browser.click("restart").await?;
    browser.click("tab-history").await?;
    browser.reads("revision-2", "current").await?;
    browser.click("undo-1").await?;
    browser.click("confirm-yes").await?;
    browser.reads("revision-3", "current").await?;
    browser.picture("history").await?;
    browser.click("tab-overview").await?;
    browser.shows("3 of 3 available").await?;
    browser
        .eventually("the old pods' end", async || Ok((browser.count("pod-row-").await? == 3).then_some(())))
        .await
}

async fn mend_a_bad_version(browser: &Browser) -> Result<()> {
    browser.fill("image-0", "pilothouse.example/busybox:no-such-version").await?;
    browser.click("image-apply").await?;
    browser.reads("trouble", "Check the image's name and tag").await?;
    browser.picture("trouble").await?;
    browser.click("tab-history").await?;
    browser.reads("revision-4", "busybox:no-such-version").await?;
    browser.click("undo-3").await?;
    browser.click("confirm-yes").await?;
    browser.reads("revision-5", "current").await?;
    browser.click("tab-overview").await?;
    browser.shows("3 of 3 available").await?;
    browser
        .eventually("the bad pods' end", async || Ok((browser.count("pod-row-").await? == 3).then_some(())))
        .await
}

async fn follow_a_log(browser: &Browser) -> Result<()> {
    let row = browser
        .eventually("a pod's link", async || {
            let page = browser
                .script(
                    "return document.querySelector(\"[data-testid^='pod-row-'] a\")?.getAttribute('href')",
                )
                .await?;
            Ok(page.as_str().map(str::to_owned))
        })
        .await?;
    browser.script(&format!("document.querySelector(\"a[href='{row}']\").click()")).await?;
    browser.click("tab-logs").await?;
    browser.reads("logs-view", "ahoy").await?;
    let lines = || async { anyhow::Ok(browser.find("logs-view").await?.text().await?.lines().count()) };
    let before = lines().await?;
    browser.eventually("more lines", async || Ok((lines().await? > before).then_some(()))).await?;
    browser.picture("logs").await
}

async fn keep_a_secret(browser: &Browser, dashboard: &str) -> Result<()> {
    browser.open(&format!("{dashboard}secrets/new")).await?;
    browser.fill("kv-name", "chart").await?;
    browser.fill("secret-key-0", "place").await?;
    browser.fill("secret-value-0", "under the third palm").await?;
    browser.click("kv-save").await?;
    browser.find("kv-edit").await?;
    ensure!(!browser.text().await?.contains("third palm"), "the value is shown before it is asked for");
    browser.click("secret-reveal").await?;
    browser.reads("secret-value", "under the third palm").await?;
    browser.picture("secret").await?;
    browser.click("kv-edit").await?;
    browser.click("secret-reveal").await?;
    browser.fill("secret-value-0", "under the fourth palm").await?;
    browser.click("kv-save").await?;
    browser.find("kv-edit").await?;
    browser.click("secret-reveal").await?;
    browser.reads("secret-value", "under the fourth palm").await
}

async fn delete(browser: &Browser, dashboard: &str) -> Result<()> {
    browser.open(&format!("{dashboard}deployments/harbour/web")).await?;
    browser.click("delete").await?;
    browser.fill("confirm-name", "web").await?;
    browser.click("confirm-yes").await?;
    // By the keyboard: the list, found by a few letters of its name.
    browser.click("palette-open").await?;
    browser.fill("palette", "deployments\u{e007}").await?;
    browser.is_gone("row-web").await?;
    browser.find("empty").await?;
    browser.picture("empty").await?;
    browser.open(&format!("{dashboard}namespaces/_/harbour")).await?;
    browser.click("delete").await?;
    browser.fill("confirm-name", "harbour").await?;
    browser.click("confirm-yes").await?;
    browser.find("row-default").await?;
    browser.is_gone("row-harbour").await
}
