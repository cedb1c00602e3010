"""A headless Chromium as a person uses it: buttons by their words, fields by their labels.

A browser with scripts waits for the page to change by itself; one without loads the page again, as its reader would.
"""
import json
import time

from selenium import webdriver
from selenium.common.exceptions import (ElementClickInterceptedException, ElementNotInteractableException, NoSuchElementException,
                                        StaleElementReferenceException, WebDriverException)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

PATIENCE = 120  # seconds; a limit for broken runs, not a measurement
WIDE, NARROW = 1200, 400


def quoted(text):
    """An XPath literal."""
    return "concat(" + ", '\"', ".join(f'"{part}"' for part in text.split('"')) + ', "")'


class Browser:
    def __init__(self, profile, scripts=True):
        self.scripts = scripts
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync", "--lang=en-GB",
                     f"--user-data-dir={profile}"):
            options.add_argument(flag)
        prefs = {"credentials_enable_service": False, "profile.password_manager_leak_detection": False}
        if not scripts:
            prefs["profile.managed_default_content_settings.javascript"] = 2
        options.add_experimental_option("prefs", prefs)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.set_capability("unhandledPromptBehavior", "ignore")
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        self.size(WIDE)

    def quit(self):
        self.driver.quit()

    # ---- Looking ----

    def size(self, width, height=900, dark=False):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def open(self, url):
        self.driver.get(url)

    @property
    def address(self):
        return self.driver.current_url

    @property
    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    @property
    def title(self):
        return self.driver.title

    def has(self, xpath):
        return bool(self.driver.find_elements(By.XPATH, xpath))

    def until(self, what, ask, seconds=PATIENCE, again=True):
        """Asks until the answer is true, and returns it; without scripts it loads the page `again` in between."""
        seconds = max(seconds, PATIENCE)
        end = time.monotonic() + seconds
        while True:
            try:
                answer = ask()
            except WebDriverException:
                # The content was replaced while it was read.
                answer = None
            if answer:
                return answer
            if time.monotonic() > end:
                raise AssertionError(f"in {seconds} s never: {what}\n{self.address}\n{self.text}")
            time.sleep(0.2)
            if again and not self.scripts:
                # Not a refresh: that would send a form again.
                self.open(self.address)

    def sees(self, *words, seconds=PATIENCE):
        self.until(f"the page says {words}", lambda: all(word in self.text for word in words), seconds)

    def says(self, *words):
        """What the answer to a form must say at once."""
        self.until(f"the answer is {words}", lambda: all(word in self.text for word in words), again=False)

    def row(self, words):
        """The text of the table row with these words; empty if there is none."""
        found = self.driver.find_elements(By.XPATH, f"//tbody/tr[contains(., {quoted(words)})]")
        return found[0].text if found else ""

    # ---- Doing ----

    def _act(self, xpath, act):
        """Content may be replaced between finding and using it, so this tries again."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return act(self.driver.find_element(By.XPATH, xpath))
            except (StaleElementReferenceException, NoSuchElementException, ElementNotInteractableException,
                    ElementClickInterceptedException) as problem:
                if time.monotonic() > end:
                    raise AssertionError(f"{xpath} cannot be used on {self.address}\n{self.text}") from problem
                time.sleep(0.1)

    def text_of(self, xpath):
        return self._act(xpath, lambda element: element.text)

    def click(self, words, within=""):
        """Presses the button, or follows the link, or opens the fold, of these words or this spoken name."""
        w = quoted(words)
        self._act(f"{within}//*[self::button or self::a or self::summary][normalize-space()={w} or @aria-label={w}]",
                  lambda element: element.click())

    def _field(self, label):
        return f"//label[starts-with(normalize-space(), {quoted(label)})]//*[self::input or self::textarea or self::select]"

    def fill(self, label, value, within=""):
        def act(element):
            if element.tag_name == "select":
                Select(element).select_by_value(value)
            else:
                element.clear()
                element.send_keys(value)
        self._act(within + self._field(label), act)

    def value(self, label):
        return self._act(self._field(label), lambda element: element.get_attribute("value"))

    def downloads_to(self, folder):
        """From now on files that the browser is given lie there."""
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})

    # ---- Complaints ----

    def complaints(self):
        """Errors and policy violations that the console was told since the last time. The browser itself notes every
        answer of 400 and more; those are what some tests are about."""
        lines = self.driver.get_log("browser")
        return [line["message"] for line in lines
                if line["level"] in ("SEVERE", "WARNING") and "Failed to load resource" not in line["message"]]

    def alert(self):
        try:
            return self.driver.switch_to.alert.text
        except WebDriverException:
            return None

    def spills(self):
        """What sticks out of the window or out of its own box, if anything does."""
        return json.loads(self.driver.execute_script(SPILLS))

    def screenshot(self, path):
        """The whole page, however long."""
        import base64
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


SPILLS = """
const width = document.documentElement.clientWidth, out = [];
if (document.documentElement.scrollWidth > width) { out.push("the page is wider than the window"); }
for (const e of document.body.querySelectorAll("*")) {
  const box = e.getBoundingClientRect();
  if (!box.width || e.closest(".quiet, .skip, thead")) { continue; }
  if (box.right > width + 1 || box.left < -1) { out.push(e.tagName + " " + e.textContent.trim().slice(0, 60)); }
}
return JSON.stringify(out.slice(0, 5));
"""
