'use strict';

// "12.50" to 1250; money is never a float.
function cents(text) {
    const [whole, part = ''] = text.split('.');
    return Number(whole) * 100 + Number(part.padEnd(2, '0'));
}

function written(value) {
    return `${Math.trunc(value / 100)}.${String(value % 100).padStart(2, '0')}`;
}

module.exports = { cents, written };
