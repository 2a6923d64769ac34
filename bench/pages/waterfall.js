"use strict";
// Draws each boot's waterfall on a canvas: phases, reads by program, fetches by reason, use of the link, one time axis.
// Drag or turn the wheel to zoom, click a phase to see it alone, double-click to see all.
for (const box of document.querySelectorAll(".waterfall")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const canvas = box.querySelector("canvas"), tip = box.querySelector(".tip"), pen = canvas.getContext("2d");
  const LEFT = 104, RIGHT = 16, LANE = 6, LABEL = 13, BAND = 22, LINK = 96, HEAD = 22, FOOT = 26;
  const READS = ["hit", "miss", "late", "error"], last = (t, took) => t.map((at, i) => at + took[i]);
  const reads = data.reads, fetches = data.fetches;
  const end = Math.max(data.ready, ...last(reads.t, reads.wait), ...last(fetches.t, fetches.took)) * 1.01;
  let from = 0, to = end, drag = null, hits = [], colours = {};

  // Bars that overlap get lanes of their own, in as few as can be.
  function pack(indices, t, took) {
    const ends = [], lanes = new Map();
    for (const i of indices) {
      let lane = ends.findIndex(at => at <= t[i]);
      if (lane < 0) lane = ends.length;
      ends[lane] = t[i] + took[i];
      lanes.set(i, lane);
    }
    return { lanes, count: ends.length };
  }
  const all = list => [...list.keys()];
  const programs = data.programs.map((name, row) => {
    const mine = all(reads.t).filter(i => reads.program[i] === row);
    return { name, mine, ...pack(mine, reads.t, reads.wait) };
  });
  const reasons = data.reasons.map((name, reason) => {
    const mine = all(fetches.t).filter(i => fetches.reason[i] === reason);
    return { name, reason, mine, ...pack(mine, fetches.t, fetches.took) };
  }).filter(each => each.mine.length);
  const tall = group => Math.max(LABEL, group.count * LANE + 3);
  const height = BAND + HEAD * 3 + [...programs, ...reasons].reduce((sum, each) => sum + tall(each), 0) + LINK + FOOT;

  const x = at => LEFT + (at - from) / (to - from) * (width() - LEFT - RIGHT);
  const time = px => from + (px - LEFT) / (width() - LEFT - RIGHT) * (to - from);
  const width = () => canvas.clientWidth;
  const ms = us => us < 10000 ? (us / 1000).toFixed(us < 1000 ? 3 : 2) + " ms" : (us / 1e6).toFixed(3) + " s";
  const size = bytes => bytes < 1024 ? bytes + " B" : bytes < 1 << 20 ? (bytes / 1024).toFixed(0) + " KiB" : (bytes / (1 << 20)).toFixed(1) + " MiB";
  function text(words, at, y, colour, align = "left", bold = "") {
    pen.fillStyle = colour;
    pen.font = bold + "11.5px system-ui, 'DejaVu Sans', sans-serif";
    pen.textAlign = align;
    pen.fillText(words, at, y);
  }
  // Whatever is shorter than a pixel is still seen.
  function bar(begin, finish, y, tall, colour, hatched) {
    const left = Math.max(x(begin), LEFT), wide = Math.max(1.4, Math.min(x(finish), width() - RIGHT) - left);
    pen.fillStyle = colour;
    pen.fillRect(left, y, wide, tall);
    if (hatched && wide > 6) {
      pen.fillStyle = colours.card;
      for (let at = left + 3; at < left + wide - 1; at += 5) pen.fillRect(at, y, 1.5, tall);
    }
    return [left, wide];
  }
  const seen = (begin, finish) => finish >= from && begin <= to;
  function step(span, most) {
    const least = span / most, power = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 5, 10].map(each => each * power).find(each => each >= least * 0.999);
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, style = getComputedStyle(box);
    for (const name of ["text", "dim", "grid", "line", "card", ...data.uses, ...READS, ...data.reasons, "kernel", "initramfs", "userland"])
      colours[name] = style.getPropertyValue("--" + (READS.includes(name) ? "read-" : data.uses.includes(name) ? "use-" : data.reasons.includes(name) ? "why-" : "") + name).trim();
    canvas.style.height = height + "px";
    canvas.width = width() * ratio;
    canvas.height = height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width(), height);
    hits = [];
    const ticks = step(to - from, Math.max(3, Math.floor(width() / 110)));
    for (let at = Math.ceil(from / ticks) * ticks; at <= to; at += ticks) {
      pen.fillStyle = colours.grid;
      pen.fillRect(x(at), BAND, 1, height - BAND - FOOT);
      text(+(at / 1e6).toFixed(6) + " s", x(at), height - 8, colours.dim, "center");
    }
    for (const [name, begin, finish] of data.phases) {
      if (!seen(begin, finish)) continue;
      const [left, wide] = bar(begin, finish, 0, BAND - 4, colours[name]);
      if (wide > 66) text(name, left + wide / 2, 13, "#111", "center");
      hits.push({ left, wide, y: 0, tall: BAND - 4, words: [`${name}: ${ms(finish - begin)}`, "click to see it alone"] });
    }
    let y = BAND;
    const head = words => { text(words, 0, y + 15, colours.text, "left", "600 "); y += HEAD; };
    const label = (group, words) => {
      pen.fillStyle = colours.grid;
      pen.fillRect(LEFT, y + tall(group) - 1, width() - LEFT - RIGHT, 1);
      text(words, LEFT - 8, y + 9, colours.dim, "right");
    };
    head(`reads of the kernel's, by program (${reads.t.length})`);
    for (const group of programs) {
      label(group, group.name);
      for (const i of group.mine) {
        const begin = reads.t[i], finish = begin + reads.wait[i], outcome = READS[reads.outcome[i]];
        if (!seen(begin, finish)) continue;
        const [left, wide] = bar(begin, finish, y + 2 + group.lanes.get(i) * LANE, LANE - 1, colours[outcome]);
        hits.push({ left, wide, y: y + 2 + group.lanes.get(i) * LANE, tall: LANE, words: [
          data.paths[reads.path[i]], `${size(reads.length[i])} at ${reads.offset[i]}, by ${data.comms ? data.comms[i] : group.name}`,
          `at ${ms(begin)}: ${outcome}, waited ${ms(reads.wait[i])}`] });
      }
      y += tall(group);
    }
    head(`fetches from servers, by reason (${fetches.t.length})`);
    for (const group of reasons) {
      label(group, group.name);
      for (const i of group.mine) {
        const begin = fetches.t[i], finish = begin + fetches.took[i], uses = fetches.uses[i];
        if (!seen(begin, finish)) continue;
        const top = y + 2 + group.lanes.get(i) * LANE, sum = uses.reduce((total, use) => total + use[2], 0);
        let at = top, place;
        for (const [use, , bytes] of uses) {
          const part = (LANE - 1) * bytes / sum;
          place = bar(begin, finish, at, part, colours[data.uses[use]], data.uses[use] === "wasted");
          at += part;
        }
        if (!place) continue;
        const unit = group.name === "bundle" ? ["frame", "pages"] : ["block", "blocks"];
        hits.push({ left: place[0], wide: place[1], y: top, tall: LANE, words: [
          `${group.name}: ${size(fetches.bytes[i])} from server ${fetches.server[i] + 1}, ${unit[0]} ${fetches.first[i]}` +
          (fetches.count[i] > 1 ? ` to ${fetches.first[i] + fetches.count[i] - 1}` : ""), fetches.files[i],
          ...uses.map(([use, count, bytes]) => `${data.uses[use]}: ${count} ${unit[1]}, ${size(bytes)}`),
          `at ${ms(begin)}, took ${ms(fetches.took[i])}`] });
      }
      y += tall(group);
    }
    head("use of the link, MiB/s");
    drawLink(y);
    y += LINK;
  }

  // No byte of a fetch can have come before a round trip was over; from then on they are taken to come evenly.
  function drawLink(y) {
    const bins = Math.max(40, Math.floor((width() - LEFT - RIGHT) / 4)), span = (to - from) / bins;
    const sums = reasons.map(() => new Float64Array(bins));
    reasons.forEach((group, row) => group.mine.forEach(i => {
      const finish = fetches.t[i] + fetches.took[i], begin = Math.min(fetches.t[i] + data.rtt, finish - 1);
      for (let bin = Math.max(0, Math.floor((begin - from) / span)); bin < bins && from + bin * span < finish; bin++) {
        const part = Math.min(finish, from + (bin + 1) * span) - Math.max(begin, from + bin * span);
        if (part > 0) sums[row][bin] += fetches.bytes[i] * part / (finish - begin);
      }
    }));
    const rate = bytes => bytes / span * 1e6 / (1 << 20), limit = data.rate ? data.rate * 1e6 / 8 / (1 << 20) : 0;
    const totals = all(sums[0] || []).map(bin => rate(sums.reduce((sum, row) => sum + row[bin], 0)));
    const most = Math.max(1, limit, ...totals) * 1.05, scale = (LINK - 4) / most, ticks = step(most, 4);
    for (let at = 0; at <= most; at += ticks) {
      pen.fillStyle = colours.grid;
      pen.fillRect(LEFT, y + LINK - at * scale, width() - LEFT - RIGHT, 1);
      text(+at.toFixed(3), LEFT - 8, y + LINK - at * scale + 4, colours.dim, "right");
    }
    totals.forEach((total, bin) => {
      let top = y + LINK;
      const left = x(from + bin * span), wide = (width() - LEFT - RIGHT) / bins - 0.5;
      sums.forEach((row, number) => {
        const part = rate(row[bin]) * scale;
        pen.fillStyle = colours[reasons[number].name];
        pen.fillRect(left, top -= part, wide, part);
      });
      if (total > 0) hits.push({ left, wide, y, tall: LINK, words: [`${total.toFixed(1)} MiB/s` +
        (limit ? `, ${(100 * total / limit).toFixed(0)}% of the link` : ""),
        ...reasons.map((group, row) => [group.name, rate(sums[row][bin])]).filter(each => each[1] > 0).map(each => `${each[0]}: ${each[1].toFixed(1)}`)] });
    });
    if (limit) {
      pen.fillStyle = colours.text;
      for (let at = LEFT; at < width() - RIGHT; at += 8) pen.fillRect(at, y + LINK - limit * scale, 4, 1);
      text(`${data.rate} Mbit/s`, width() - RIGHT, y + LINK - limit * scale - 4, colours.dim, "right");
    }
  }

  function zoom(a, b) {
    const span = Math.max(50, Math.min(end, b - a));
    from = Math.max(0, Math.min(end - span, a));
    to = from + span;
    draw();
  }
  const spot = event => { const area = canvas.getBoundingClientRect(); return [event.clientX - area.left, event.clientY - area.top]; };
  canvas.addEventListener("wheel", event => {
    const at = time(spot(event)[0]), factor = event.deltaY < 0 ? 0.8 : 1.25;
    if (factor > 1 && to - from >= end) return; // the page scrolls
    event.preventDefault();
    zoom(at - (at - from) * factor, at + (to - at) * factor);
  }, { passive: false });
  canvas.addEventListener("mousedown", event => { drag = spot(event)[0]; });
  canvas.addEventListener("mousemove", event => {
    const [px, py] = spot(event);
    if (drag !== null && Math.abs(px - drag) > 3) {
      draw();
      pen.fillStyle = "rgba(120,130,150,.25)";
      pen.fillRect(Math.min(drag, px), 0, Math.abs(px - drag), height);
    }
    const near = hits.filter(each => py >= each.y && py <= each.y + each.tall && px >= each.left - 2 && px <= each.left + each.wide + 2).pop();
    tip.hidden = !near;
    if (!near) return;
    tip.textContent = near.words.filter(Boolean).join("\n");
    tip.style.left = Math.min(px + 14, width() - tip.offsetWidth) + "px";
    tip.style.top = py + 16 + "px";
  });
  window.addEventListener("mouseup", event => {
    if (drag === null) return;
    const [px, py] = spot(event), began = drag;
    drag = null;
    if (Math.abs(px - began) > 3) return zoom(Math.min(time(began), time(px)), Math.max(time(began), time(px)));
    const phase = data.phases.find(([, begin, finish]) => time(px) >= begin && time(px) <= finish);
    if (py >= 0 && py < BAND && phase) zoom(phase[1], phase[2]);
  });
  canvas.addEventListener("dblclick", () => zoom(0, end));
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  new ResizeObserver(() => requestAnimationFrame(draw)).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
