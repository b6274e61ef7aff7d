# The SDKs start noVNC at this path.
ln -s /usr/share/novnc /opt/noVNC
test -x /opt/noVNC/utils/novnc_proxy
test -f /opt/noVNC/vnc.html

# `launch("firefox")` names the program as its makers do; Debian calls it after the release line.
ln -s firefox-esr.desktop /usr/share/applications/firefox.desktop
ln -sf firefox-esr /usr/bin/firefox
cat > /etc/xdg/mimeapps.list <<'LIST'
[Default Applications]
text/html=firefox-esr.desktop
application/xhtml+xml=firefox-esr.desktop
application/pdf=firefox-esr.desktop
x-scheme-handler/http=firefox-esr.desktop
x-scheme-handler/https=firefox-esr.desktop
text/plain=org.xfce.mousepad.desktop
image/png=org.xfce.ristretto.desktop
image/jpeg=org.xfce.ristretto.desktop
inode/directory=thunar.desktop
LIST

# No question and no page that nobody asked for, and nothing is sent to the browser's makers.
install -d /etc/firefox/policies
cat > /etc/firefox/policies/policies.json <<'JSON'
{
  "policies": {
    "DisableAppUpdate": true,
    "DisableFirefoxStudies": true,
    "DisableTelemetry": true,
    "DontCheckDefaultBrowser": true,
    "NoDefaultBookmarks": true,
    "OverrideFirstRunPage": "",
    "OverridePostUpdatePage": "",
    "SkipTermsOfUse": true,
    "UserMessaging": {"ExtensionRecommendations": false, "FeatureRecommendations": false, "SkipOnboarding": true},
    "Homepage": {"URL": "about:blank", "StartPage": "homepage"}
  }
}
JSON
