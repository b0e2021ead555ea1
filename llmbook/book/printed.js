// The article of a page as markup that needs no script: what a reader has typed or a canvas shows
// becomes part of it, names get the page's name in front. For pdf.py, which calls it in each page.
({ name, code, pages }) => {
  const article = document.querySelector('.bd-article');
  for (const e of article.querySelectorAll('input')) {
    e.setAttribute('value', e.value);
    e.toggleAttribute('checked', e.checked);
  }
  const drawn = [...article.querySelectorAll('canvas')].map((e) => e.toDataURL());
  const copy = article.cloneNode(true);
  copy.querySelectorAll('canvas').forEach((e, i) => {
    const img = Object.assign(document.createElement('img'), { src: drawn[i], alt: '' });
    img.style.cssText = e.style.cssText;
    img.width = e.width;
    e.replaceWith(img);
  });
  copy.querySelectorAll('script, noscript, .headerlink, .copybtn, .prev-next-area, .claims-filter')
    .forEach((e) => e.remove());
  for (const fold of copy.querySelectorAll('details.hide')) {
    if (!code && fold.classList.contains('above-input')) fold.remove();
    else fold.replaceWith(...[...fold.childNodes].filter((e) => e.localName !== 'summary'));
  }
  copy.querySelectorAll('.cell').forEach((e) => { if (!e.textContent.trim()
    && !e.querySelector('img, svg')) e.remove(); });
  copy.querySelectorAll('details').forEach((e) => { e.open = true; });
  for (const e of copy.querySelectorAll('img')) e.setAttribute('src', e.src);
  for (const e of copy.querySelectorAll('[id]')) e.id = `${name}--${e.id}`;
  for (const a of copy.querySelectorAll('a[href]')) {
    const to = new URL(a.getAttribute('href'), location.href);
    const page = to.pathname.split('/').pop().replace(/\.html$/, '');
    if (to.hash.startsWith('#figure:')) { a.replaceWith(...a.childNodes); continue; }
    if (to.protocol !== location.protocol) continue;
    const place = to.hash && `--${to.hash.slice(1)}`;
    if (pages.includes(page)) a.setAttribute('href', `#${page}${place}`);
    else a.removeAttribute('href');
  }
  const named = (value) => `#${name}--${value.slice(1)}`;
  for (const e of copy.querySelectorAll('*'))
    for (const { name: key, value } of [...e.attributes]) {
      if (value.includes('url(#'))
        e.setAttribute(key, value.replaceAll('url(#', `url(#${name}--`));
      if (e.localName === 'use' && value.startsWith('#')) e.setAttribute(key, named(value));
      if (['for', 'aria-labelledby', 'aria-describedby', 'aria-controls'].includes(key))
        e.setAttribute(key, value.split(' ').map((v) => `${name}--${v}`).join(' '));
    }
  const styles = [...document.querySelectorAll('style')].map((e) =>
    e.textContent || [...(e.sheet?.cssRules ?? [])].map((rule) => rule.cssText).join('\n'));
  const sheets = [...document.querySelectorAll('link[rel=stylesheet]')]
    .filter((e) => !e.disabled).map((e) => e.href);
  const title = copy.querySelector('h1')?.textContent.trim() ?? name;
  return { body: copy.innerHTML, styles, sheets, title };
}
