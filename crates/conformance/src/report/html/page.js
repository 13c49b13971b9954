// The page reads without this. It remembers the toggles, and opens what is folded before printing.
(function () {
  var root = document.documentElement;
  function kept(key) { try { return localStorage.getItem(key); } catch (e) { return null; } }
  function keep(key, value) { try { localStorage.setItem(key, value); } catch (e) { /* A file may have no storage. */ } }
  function choose(id) { var input = document.getElementById(id); if (input) { input.checked = true; } }
  function speak() { root.lang = document.getElementById("lang-zh").checked ? "zh-Hans" : "en"; }
  var language = kept("qiao.lang") || (/^zh\b/i.test(navigator.language || "") ? "zh" : "en");
  var asked = /[?&#]lang=(en|zh)\b/.exec(location.search + location.hash);
  choose("lang-" + (asked ? asked[1] : language));
  var theme = kept("qiao.theme");
  if (theme) { choose("theme-" + theme); }
  speak();
  document.querySelectorAll(".toggles input").forEach(function (input) {
    input.addEventListener("change", function () {
      keep("qiao." + input.name, input.value);
      speak();
    });
  });
  // A listener of touches makes :hover work where there is no pointer.
  document.addEventListener("touchstart", function () {}, { passive: true });
  var opened = [];
  addEventListener("beforeprint", function () {
    opened = Array.prototype.filter.call(document.querySelectorAll("details"), function (d) { return !d.open; });
    opened.forEach(function (d) { d.open = true; });
  });
  addEventListener("afterprint", function () { opened.forEach(function (d) { d.open = false; }); });
})();
